"""The report from no records, from some and from all; its figures, claims and files."""

import re
from itertools import product
from typing import Any

import pytest

from experiments import claims, report
from experiments.figures import curves
from pcl_jax.runs import records
from pcl_jax.runs.records import Record
from pcl_jax.runs.summary import Gain
from pcl_jax.runs.tables import NOT_RUN

METHODS = (("supervised", False), ("pairwise-cl", False), ("pairwise-cl", True), ("probe-raw", False))


def made(
    *, folds=(1, 2), repeats=range(10), fractions=(0.02, 0.05), gain=0.1, ways=METHODS, **other
) -> list[Record]:
    """Records in which an encoder that is tuned after pre-training gains so much in every cell."""
    rows = []
    for fold, repeat, fraction, view, (method, frozen) in product(
        folds, repeats, fractions, ("mel", "egemaps"), ways
    ):
        pretrained = method == "pairwise-cl"
        uar = 0.5 + 0.003 * repeat + gain * (1 + 0.1 * repeat) * (pretrained and not frozen)
        values: dict[str, Any] = {
            "experiment": "test", "corpus": "small", "synthetic": False, "fold": fold, "view": view,
            "title": view, "views": ("mel", "egemaps") if pretrained else (), "method": method,
            "frozen": frozen, "fraction": fraction, "n_labelled": 4, "repeat": repeat,
            "temperature": 0.5 if pretrained else None, "pretrained_on": "all" if pretrained else None,
            "seed": 0, "uar": uar, "wa": uar, "validation_uar": uar, "validation_wa": uar,
            "confusion": ((6, 4), (2, 8)), "classes": ("calm", "<b>angry</b>"), "counts": (7, 9),
            "utterances": 20, "normalise": "fold", "protocol": "abcdef123456", "seconds": 1.0,
            "config_digest": "c", "versions": {"jax": "1"}, "device": "cpu x 1",
            "run": f"small/{fold}{repeat}{fraction}{view}{method}{frozen}{sorted(other.items())}",
        }  # fmt: skip
        rows.append(Record(**(values | other)))
    return rows


def page_of(tmp_path, rows) -> str:
    for row in rows:
        records.append(tmp_path, row)
    return report.write(tmp_path).read_text()


def verdicts(tmp_path) -> list[str]:
    (path,) = (tmp_path / "report" / "tables").glob("*claims.md")
    return [line.split("|")[3].strip() for line in path.read_text().splitlines() if line.startswith("| (")]


def test_no_records_is_a_page_that_says_how_to_make_them(tmp_path):
    page = page_of(tmp_path, [])
    assert "make paper" in page
    assert "<table" not in page


def test_nothing_is_fetched_and_nothing_of_a_name_is_taken_for_html(tmp_path):
    page = page_of(tmp_path, made())
    assert not re.search(r'(src|href)="(https?:)?//', page.replace('xlink:href="#', ""))
    assert "<script" not in page
    assert "&lt;b&gt;angry" in page
    assert "<b>angry" not in page


def test_a_sure_gain_is_said_and_every_table_is_a_file(tmp_path):
    page = page_of(tmp_path, made())
    assert "above in 4 of 4 cells" in page
    assert "significant (Wilcoxon, Holm) in 4" in page
    assert verdicts(tmp_path) == ["held", NOT_RUN, NOT_RUN, "held", NOT_RUN]
    folder = tmp_path / "report"
    names = {path.stem for path in (folder / "tables").iterdir()}
    for name in names:
        assert (folder / "tables" / f"{name}.md").stat().st_size
        assert r"\toprule" in (folder / "tables" / f"{name}.tex").read_text()
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png"}


def test_no_effect_and_a_probe_that_wins_come_first(tmp_path):
    page = page_of(tmp_path, made(gain=-0.002, ways=METHODS[:3]) + made(ways=METHODS[3:], uar=0.7))
    assert "a logistic regression on the plain features beats" in page
    assert page.index("logistic regression on the plain") < page.index("The paper&#39;s claims")
    assert "contradicted" in verdicts(tmp_path)


def test_too_few_repeats_are_not_called_no_effect(tmp_path):
    page = page_of(tmp_path, made(repeats=range(3)))
    assert "3 repeats are too few to find anything in 4 cells" in page
    assert "told from chance" not in page


def test_a_share_with_few_repeats_does_not_silence_those_with_many(tmp_path):
    page = page_of(tmp_path, made(gain=0.0) + made(gain=0.0, fractions=(1.0,), repeats=range(2)))
    assert "too few" not in page
    assert "told from chance" in page


def test_a_fold_that_has_only_begun_is_left_out_and_named(tmp_path):
    page = page_of(tmp_path, made() + made(folds=(3,), fractions=(0.02,), repeats=(0,)))
    assert "only begun: folds 3" in page
    assert "above in 4 of 4 cells" in page


def test_what_was_not_run_stands_there_with_its_command(tmp_path):
    page = page_of(tmp_path, made(ways=METHODS[:1]))
    assert NOT_RUN in page
    assert "python -m experiments.sparse_labels --corpus small --root DIR" in page


def test_runs_of_other_settings_corpora_or_seeds_are_sections_of_their_own(tmp_path):
    rows = made() + made(protocol="other") + made(seed=1) + made(corpus="another")
    assert page_of(tmp_path, rows).count("<h2>") == 4


def test_other_pretrainings_stay_out_of_figure_3_and_come_into_figure_4(tmp_path):
    tuned = METHODS[1:2]
    rows = made() + made(ways=tuned, gain=0.3, pretrained_on="target")
    rows += made(ways=tuned, gain=0.2, pretrained_on="out_of_distribution")
    rows += made(ways=tuned, gain=0.4, temperature=0.1, repeats=(0,))
    page = page_of(tmp_path, rows)
    assert "above in 4 of 4 cells, by +14.5 to +14.5 points" in page
    assert verdicts(tmp_path)[4] == "held"
    (path,) = (tmp_path / "report" / "tables").glob("*what-the-pre-training-saw.md")
    assert "+14.5 ± " in path.read_text()  # (0.3 - 0.2) (1 + 0.45)


def test_a_confusion_is_of_all_folds_and_repeats():
    (mel, egemaps) = report.confusions([vars(row) for row in made()])[::-1]
    assert mel.rows == [("calm", "60", "40"), ("<b>angry</b>", "20", "80")] == egemaps.rows


def test_figure_3_has_a_panel_per_view_two_methods_and_a_mark_per_share():
    from matplotlib import pyplot

    figure = curves([vars(row) for row in made()])
    assert [at.get_title() for at in figure.axes] == ["egemaps", "mel"]
    for at in figure.axes:
        assert [line.get_label() for line in at.lines] == [
            "supervised", "Pairwise-CL, tuned", "probe, features"
        ]  # fmt: skip
        assert [text.get_text() for text in at.texts] == ["*", "*"]
        assert at.lines[1].get_ydata() == pytest.approx([51.35 + 14.5] * 2)
    pyplot.close(figure)


def gain(mean: float, p: float) -> Gain:
    return Gain(10, mean, 1.0, mean - 1, mean + 1, p, p, 0.5)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], NOT_RUN),
        ([gain(5, 0.01), gain(4, 0.04)], "held"),
        ([gain(5, 0.01), gain(4, 0.2)], "held in part"),
        ([gain(5, 0.06)], "not shown"),
        ([gain(-5, 0.01), gain(4, 0.2)], "contradicted"),
        ([gain(-5, 0.01), gain(4, 0.02)], "mixed"),
    ],
)
def test_a_claim_is_held_only_where_gains_are_sure(found, expected):
    assert claims.verdict(found) == expected
