"""The report from no records, from some and from all; its figures, claims and files."""

import json
import re
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import alignment, claims, report, sparse_labels
from experiments.experiment import Choice
from experiments.figures import curves, heat_maps, pyplot
from pcl_jax.config import Settings, digest
from pcl_jax.runs import records
from pcl_jax.runs.records import Record
from pcl_jax.runs.summary import Gain
from pcl_jax.runs.tables import NOT_RUN

METHODS = (("supervised", False), ("pairwise-cl", False), ("pairwise-cl", True), ("probe-raw", False))
SETTINGS = json.loads(json.dumps(asdict(Settings())))
CHOICE = Choice(("mel", "egemaps"), 0.5)


def settings_of(method: str, temperature: float | None, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a record of this method has, with dotted names changed."""
    names = {"probe-raw": ("normalise",), "pairwise-cl": ("finetuning", "pretraining")}
    names = names.get(method, ("finetuning",))
    found = {name: SETTINGS[name] for name in ("normalise", "encoders", "precision", *names)}
    found = {"normalise": "fold"} if method == "probe-raw" else json.loads(json.dumps(found))
    if "pretraining" in found:
        found["pretraining"]["temperature"] = temperature
    for name, value in changes.items():
        group, _, field = name.partition(".")
        if group in found:
            found[group][field] = value
    return found


def made(
    *,
    folds=(1, 2),
    repeats=range(10),
    fractions=(0.02, 0.05),
    gain=0.1,
    methods=METHODS,
    views=("mel", "egemaps"),
    settings=None,
    features=None,
    **fields,
) -> list[dict[str, Any]]:
    """Return records in which an encoder that is tuned after pre-training gains as much in every cell."""
    rows = []
    for fold, repeat, fraction, view, (method, frozen) in product(folds, repeats, fractions, views, methods):
        pretrained = method == "pairwise-cl"
        uar = 0.5 + 0.003 * repeat + gain * (1 + 0.1 * repeat) * (pretrained and not frozen)
        temperature = fields.get("temperature", 0.5) if pretrained else None
        used = settings_of(method, temperature, settings or {})
        facts = digest(used, (features or {}).get(view), sorted(fields.items()))
        run = f"small/{fold}-{repeat}-{fraction}-{view}-{method}-{frozen}-{facts}"
        values: dict[str, Any] = {
            "experiment": "test", "corpus": "small", "synthetic": False, "fold": fold, "view": view,
            "title": view, "views": views if pretrained else (), "method": method,
            "frozen": frozen, "fraction": fraction, "n_labelled": 4, "repeat": repeat,
            "temperature": temperature, "pretrained_on": "all" if pretrained else None,
            "seed": 0, "uar": uar, "wa": uar, "validation_uar": uar, "validation_wa": uar,
            "confusion": ((6, 4), (2, 8)), "classes": ("calm", "<b>angry</b>"), "counts": (7, 9),
            "utterances": 20, "normalise": "fold", "protocol": "abcdef123456", "seconds": 1.0,
            "settings": used, "features": {view: (features or {}).get(view, "f")}, "recordings": "r",
            "label_digest": "l", "config_digest": run, "run": run,
            "versions": {"jax": "1", "pcl-jax": "0.1.0"}, "device": "cpu x 1",
        }  # fmt: skip
        rows.append(json.loads(json.dumps(asdict(Record(**(values | fields))))))
    return rows


@pytest.fixture
def pictures():
    """Asked for by tests that look at pictures."""


@pytest.fixture(autouse=True)
def draw_only_what_is_looked_at(request, monkeypatch):
    """Drawing and writing pictures is two thirds of a report's time."""

    def close(figure, path):
        pyplot().close(figure)
        return "<svg></svg>"

    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(report, "save", close)


def written(folder: Path, rows) -> report.Page:
    folder.mkdir(exist_ok=True)
    with open(folder / records.FILE, "a") as file:  # at once: a sync per row would be all the time
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return report.write(folder)


def page_of(folder: Path, rows) -> str:
    page = written(folder, rows)
    assert not page.errors
    return page.path.read_text()


def verdicts(tmp_path) -> list[str]:
    (path,) = (tmp_path / "report" / "tables").glob("*claims.md")
    return [line.split("|")[3].strip() for line in path.read_text().splitlines() if line.startswith("| (")]


def test_the_page_of_no_records_says_how_to_make_them(tmp_path):
    page = page_of(tmp_path, [])
    assert "make paper" in page
    assert "<table" not in page


def test_the_page_fetches_nothing_and_takes_no_name_for_html(tmp_path, pictures):
    page = page_of(tmp_path, made())
    assert not re.search(r'(src|href)="(https?:)?//', page.replace('xlink:href="#', ""))
    assert "<script" not in page
    assert "&lt;b&gt;angry" in page
    assert "<b>angry" not in page


def test_the_page_states_a_significant_gain_and_every_table_is_a_file(tmp_path, pictures):
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


def test_a_probe_that_wins_comes_before_the_claims(tmp_path):
    page = page_of(tmp_path, made(gain=-0.002, methods=METHODS[:3]) + made(methods=METHODS[3:], uar=0.7))
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


def test_a_table_with_missing_runs_has_their_command(tmp_path):
    page = page_of(tmp_path, made(methods=METHODS[:1]))
    assert NOT_RUN in page
    assert "python -m experiments.sparse_labels --corpus table --root DIR" in page


def test_runs_of_other_settings_corpora_or_seeds_have_their_own_sections(tmp_path):
    rows = made() + made(settings={"finetuning.epochs": 5}) + made(seed=1) + made(corpus="another")
    assert page_of(tmp_path, rows).count("<h2 ") == 4


def test_other_pretrainings_are_in_figure_4_and_not_in_figure_3(tmp_path):
    tuned = METHODS[1:2]
    rows = made() + made(methods=tuned, gain=0.3, pretrained_on="target")
    rows += made(methods=tuned, gain=0.2, pretrained_on="out_of_distribution")
    rows += made(methods=tuned, gain=0.4, temperature=0.1, repeats=(0,))
    page = page_of(tmp_path, rows)
    assert "above in 4 of 4 cells, by +14.5 to +14.5 points" in page
    assert verdicts(tmp_path)[4] == "held"
    (path,) = (tmp_path / "report" / "tables").glob("*what-the-pre-training-saw.md")
    assert "+14.5 ± " in path.read_text()  # (0.3 - 0.2) (1 + 0.45)


def test_a_confusion_matrix_is_over_all_folds_and_repeats_at_the_most_labels():
    rows = sparse_labels.confusion_table(sparse_labels.select_confused(made(), CHOICE)).rows
    lines = [("calm", "60", "40"), ("<b>angry</b>", "20", "80")]
    assert rows == [(view, *line) for view in ("egemaps", "mel") for line in lines]
    assert {row["fraction"] for row in sparse_labels.select_confused(made(), CHOICE)} == {0.05}


def test_figure_3_has_a_panel_per_view_two_methods_and_a_mark_per_share():
    from matplotlib import pyplot

    figure = curves(made())
    assert [axis.get_title() for axis in figure.axes] == ["egemaps", "mel"]
    for axis in figure.axes:
        assert [line.get_label() for line in axis.lines] == [
            "supervised", "Pairwise-CL, tuned", "probe, features"
        ]  # fmt: skip
        assert [text.get_text() for text in axis.texts] == ["*", "*"]
        assert axis.lines[1].get_ydata() == pytest.approx([51.35 + 14.5] * 2)
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
def test_a_claim_is_held_only_where_gains_are_significant(found, expected):
    assert claims.verdict(found) == expected


# Which runs share a table


def test_a_probe_stands_beside_fine_tunings_of_any_number_of_epochs(tmp_path):
    networks, probes = METHODS[:3], METHODS[3:]
    rows = made(methods=networks) + made(methods=networks, settings={"finetuning.epochs": 5})
    page = written(tmp_path, rows + made(methods=probes))
    assert not page.errors
    tables = list((tmp_path / "report" / "tables").glob("*share-of-labels.md"))
    assert len(tables) == 2
    for path in tables:
        (line, *_) = [line for line in path.read_text().splitlines() if line.startswith("| egemaps")]
        assert NOT_RUN not in line.split("|")[7]  # the probe on features


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"pretraining.epochs": 5}},
        {"settings": {"finetuning.batch": 8}},
        {"features": {"mel": "other bands", "egemaps": "other"}},
        {"label_digest": "other targets"},
        {"recordings": "another table"},
        {"protocol": "another version"},
    ],
)
def test_runs_that_differ_in_anything_but_the_item_never_share_a_cell(tmp_path, changes):
    page = page_of(tmp_path, made() + made(gain=0.3, **changes))
    assert page.count("above in 4 of 4 cells") == 2
    name = next(iter(changes.get("settings") or changes.get("features") or changes))
    words = dict.fromkeys(("label_digest", "recordings", "protocol"), "data and version = ")
    heads = re.findall("<h2.*</h2>", page)
    assert any(words.get(name, name) in head for head in heads), heads


def test_a_pretraining_whose_other_view_has_other_features_is_another_section(tmp_path):
    """The tuned encoder of mel is the same cell by its own fields: its start tells."""
    rows = []
    for name in ("a", "b"):
        tuned = made(methods=METHODS[1:2], views=("mel",), start=f"start {name}")
        tuned = [row | {"views": ["mel", "egemaps"]} for row in tuned]
        start = {"method": "pretraining", "uar": None, "view": "mel+egemaps", "title": "mel, egemaps"}
        start |= {"features": {"mel": "f", "egemaps": name}, "config_digest": f"start {name}"}
        rows += [tuned[0] | start | {"run": f"start {name}"}, *tuned]
    assert page_of(tmp_path, rows).count("<h2 ") == 2


def test_two_runs_of_one_cell_are_an_error_and_neither_is_shown(tmp_path):
    row, *rest = made()
    page = written(tmp_path, [row, *rest, row | {"run": "another", "config_digest": "x", "uar": 0.99}])
    (error,) = page.errors
    assert "claim one cell" in error
    assert "another" in error
    assert row["run"] in error
    assert "claim one cell" in page.path.read_text()
    (path,) = (tmp_path / "report" / "tables").glob("*share-of-labels.md")
    assert "99" not in path.read_text()


def test_rows_of_older_versions_and_foreign_rows_are_counted_and_not_shown(tmp_path):
    old = {name: value for name, value in made()[0].items() if name != "recordings"} | {"run": "old"}
    page = page_of(tmp_path, [*made(), old, {"run": "foreign"}])
    assert "2 rows of <code>records.jsonl</code> are not shown" in page
    assert "above in 4 of 4 cells" in page


def test_table_3_has_the_chosen_pretraining_on_all_utterances_alone():
    """Temperatures .1 and .5, a subset, other views: five folds are no mean of (.9 .9 .3 .3 .1)."""

    def measured(fold, value, temperature=0.5, on="all", views=("mel", "egemaps")):
        values = dict.fromkeys(alignment.HEADS, value)
        facts = {"method": "alignment", "title": "mel | egemaps", "uar": None, "values": values}
        facts |= {"temperature": temperature, "pretrained_on": on, "views": views, "fold": fold}
        return made(folds=(fold,), repeats=(0,), fractions=(1.0,), methods=METHODS[:1])[0] | facts

    rows = [measured(1, 0.9), measured(2, 0.9), measured(1, 0.3, temperature=0.1)]
    rows += [measured(2, 0.3, on="target"), measured(1, 0.1, views=("mel", "egemaps", "whisper"))]
    found = alignment.select(rows, CHOICE)
    assert [row["values"]["n"] for row in found] == [0.9, 0.9]
    assert alignment.table(found).rows[0][3] == "0.900"


def test_one_more_run_on_one_fold_drops_no_other_fold(tmp_path):
    rows = made(folds=(1, 2, 3, 4))
    more = made(folds=(5,), repeats=(0,)) + made(folds=(5,), fractions=(0.1,), repeats=(0,))
    lines = {}
    for name, found in (("four", rows), ("five", rows + more)):
        assert "above in 4 of" in page_of(tmp_path / name, found)
        (path,) = (tmp_path / name / "report" / "tables").glob("*share-of-labels.md")
        lines[name] = [[cell.strip() for cell in line.split("|")] for line in path.read_text().splitlines()]
    five = {tuple(line[1:3]): line for line in lines["five"] if len(line) > 3}
    for line in lines["four"]:
        if len(line) > 3 and line[1] in ("mel", "egemaps"):
            assert [cell.replace(" (4 of 5 folds)", "") for cell in five[tuple(line[1:3])]] == line
    assert "(1 of 5 folds)" in five["mel", "10%"][4]


def test_an_exhibit_that_fails_is_an_error_of_its_own(tmp_path, monkeypatch):
    def broken(rows):
        raise ZeroDivisionError("no rows")

    monkeypatch.setattr(sparse_labels, "EXPERIMENT", _with_table(sparse_labels.EXPERIMENT, broken))
    page = written(tmp_path, made())
    (error,) = page.errors
    assert "Figure 3 could not be made: ZeroDivisionError: no rows" in error
    text = page.path.read_text()
    assert "Figure 3 could not be made" in text
    assert "The paper&#39;s claims" in text
    assert "Protocol" in text
    assert report.print_report(report.Report(runs=tmp_path)) == 1


def _with_table(experiment, table):
    from dataclasses import replace

    first, *rest = experiment.exhibits
    return replace(experiment, exhibits=(replace(first, table=table), *rest))


# The page


ITEMS = (
    "Tables 1 and 4", "Table 2", "Table 3", "Table 5", "Figure 3", "Figure 4", "Figures 5 and 6",
)  # fmt: skip


def test_every_item_of_the_paper_has_a_heading_that_the_contents_link(tmp_path):
    page = page_of(tmp_path, made() + made(fractions=(1.0,), repeats=(0,)))
    headings = dict(re.findall('<h3 id="(.*?)">(.*?)</h3>', page))
    for item in ITEMS:
        assert any(re.match(rf"{item}\b", heading) for heading in headings.values()), item
    links = set(re.findall('<a href="#(.*?)"', page))
    assert links >= set(headings)
    anchors = re.findall('<h[23] id="(.*?)"', page)
    assert len(anchors) == len(set(anchors))
    assert page.count("Nothing was run for this yet.") == 4  # Table 3, 5, Figure 4, Figures 5 and 6


def test_confusion_matrices_are_pictures_with_numbers():
    figure = heat_maps({"mel": np.array([[60.0, 40.0], [20.0, 80.0]])}, ("calm", "angry"))
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["60", "40", "20", "80"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["calm", "angry"]
    assert axis.images[0].get_array().tolist() == [[60, 40], [20, 80]]


@pytest.mark.slow
def test_text_of_the_user_is_no_markup_and_no_formula(tmp_path, pictures):
    """Titles and emotions that matplotlib, Markdown, HTML or rich would read as code."""
    title, classes = r"mine $\frac$ [b]x|y", ("[/angry]", r"$\alpha$")
    rows = [row | {"title": f"{title} {row['view']}", "classes": classes} for row in made()]
    page = written(tmp_path, rows)
    assert not page.errors
    assert r"mine $\frac$ [b]x|y" in page.path.read_text()
    for path in (tmp_path / "report" / "tables").glob("*.md"):
        lines = [line.replace(r"\|", "") for line in path.read_text().splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1, path
    assert report.print_report(report.Report(runs=tmp_path)) == 0


def test_iemocap_has_paper_ours_and_difference(tmp_path):
    page = page_of(tmp_path, made(corpus="iemocap", fractions=(1.0,), repeats=(0,)))
    for score in ("UAR", "WA"):
        assert f"Test {score} beside the paper&#39;s Table 4" in page


def test_the_page_says_on_what_the_p_values_are_conditional(tmp_path):
    page = page_of(tmp_path, made())
    assert "Every p-value is conditional on\none pre-training per fold" in page
    assert page.count("The p-values are conditional on one pre-training per fold") >= 2


def test_all_tables_are_one_markdown_file_with_command_and_commit(tmp_path):
    rows = made()
    known = [row | {"versions": row["versions"] | {"commit": "abc123"}} for row in rows[:3]]
    written(tmp_path, [*rows[3:], *known])
    text = (tmp_path / "report" / report.MARKDOWN).read_text()
    assert "`python -m experiments.sparse_labels --corpus table --root DIR`" in text
    assert "pcl_jax 0.1.0, commit abc123; pcl_jax 0.1.0, commit not recorded" in text
    assert "### Figure 3: UAR in % over the share of labels" in text
    assert report.print_report(report.Report(runs=tmp_path, markdown=(tmp_path / "mine.md",))) == 0
    assert (tmp_path / "mine.md").read_text() == text


# Claims


def test_the_first_claim_needs_both_shares(tmp_path):
    page_of(tmp_path, made(fractions=(0.05,)))
    assert verdicts(tmp_path)[0] == NOT_RUN


def speech(gain: float, **fields) -> list[dict]:
    """Return the records of wav2vec2, pre-trained with mel."""
    return [row for row in made(gain=gain, views=("mel", "wav2vec2"), **fields) if row["view"] == "wav2vec2"]


def handcrafted(gain: float, **fields) -> list[dict]:
    """Return the records of mel, pre-trained with wav2vec2."""
    return [row for row in made(gain=gain, views=("mel", "wav2vec2"), **fields) if row["view"] == "mel"]


@pytest.mark.parametrize(
    ("hand", "model", "repeats", "expected"),
    [
        (0.1, 0.05, range(10), "held"),
        (-0.05, -0.06, range(3), "not shown"),  # three pairs show nothing
        (0.05, 0.1, range(10), "contradicted"),
        (0.1, 0.1, range(10), "not shown"),
    ],
)
def test_the_second_claim_is_decided_by_a_test(tmp_path, hand, model, repeats, expected):
    page_of(tmp_path, handcrafted(hand, repeats=repeats) + speech(model, repeats=repeats))
    assert verdicts(tmp_path)[1] == expected


@pytest.mark.parametrize(
    ("best", "temperatures", "repeats", "expected"),
    [
        (0.5, (0.1, 0.25, 0.5, 1.0), range(4), "held"),
        (0.5, (0.1, 0.25, 0.5, 1.0), (0,), "not shown"),  # two pairs
        (0.5, (0.1, 0.5), range(4), NOT_RUN),
        (0.1, (0.1, 0.25, 0.5, 1.0), range(4), "contradicted"),
        (None, (0.1, 0.25, 0.5, 1.0), range(4), "not shown"),  # a tie
    ],
)
def test_the_third_claim_needs_all_temperatures_and_a_test(tmp_path, best, temperatures, repeats, expected):
    rows = []
    for temperature in temperatures:
        gain = 0.2 if temperature == best else 0.1
        size = {"folds": (1, 2), "repeats": repeats, "fractions": (1.0,)}
        rows += made(methods=METHODS[1:2], temperature=temperature, gain=gain, **size)
    page_of(tmp_path, rows)
    assert verdicts(tmp_path)[2] == expected


def test_a_probe_beats_only_with_a_test(tmp_path):
    networks = made(gain=0.0, methods=METHODS[:3], repeats=range(3))
    page = page_of(tmp_path, networks + made(methods=METHODS[3:], uar=0.7, repeats=range(3)))
    assert "beats" not in page
    assert "has a higher mean than" in page
