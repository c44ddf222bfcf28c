"""The table of few labels: by hand from made-up records, and as a command on a user's own table."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import few_labels
from experiments.budget import by_method, cells, means, normalisation
from experiments.experiment import choose
from pcl_jax.commands.session import UsageError
from pcl_jax.runs.summary import Amount
from tests.runs.conftest import VIEWS

BOTH = "mel+egemaps"


def record(method="probe", view=BOTH, right=(3, 5), *, fold=1, repeat=0, fraction=0.05, **fields) -> dict:
    """Return a record of one speaker in each fold, with ten utterances of each of two classes."""
    return {
        "view": view, "title": view, "views": (), "fold": fold, "repeat": repeat, "fraction": fraction,
        "method": method, "frozen": False, "n_labelled": 8, "uar": np.mean(right) / 10, "temperature": None,
        "normalise": "fold", "choice": {}, "by_speaker": {f"speaker {fold}": [list(right), [10, 10]]},
        "values": {"Brier": 0.5, "calibration error": 0.1}, "pretrained_on": None,
    } | fields  # fmt: skip


def test_a_cell_is_the_mean_over_repeats_of_all_speakers_and_its_difference_is_of_pairs():
    rows = [record(right=(2, 4), fold=fold, repeat=repeat) for fold in (1, 2, 3) for repeat in (0, 1)]
    rows += [
        record("recipe", right=(4, 8), fold=fold, repeat=repeat) for fold in (1, 2, 3) for repeat in (0, 1)
    ]
    probe, recipe = cells(rows)
    assert (probe.method, recipe.method) == ("probe", "recipe")
    assert probe.uar.value == pytest.approx(0.3)
    assert recipe.uar.value == pytest.approx(0.6)
    assert recipe.difference.value == pytest.approx(0.3)
    assert (recipe.difference.low, recipe.difference.high) == pytest.approx((0.3, 0.3))  # speakers are alike
    assert recipe.difference.above == 1
    assert recipe.protocol == "budget"


def test_a_repeat_that_lacks_a_fold_does_not_count_and_pairs_are_repeats_that_both_have():
    rows = [record(right=(2, 2), fold=fold, repeat=repeat) for fold in (1, 2) for repeat in (0, 1)]
    rows += [record("recipe", right=(4, 4), fold=fold, repeat=0) for fold in (1, 2)]
    rows += [record("recipe", right=(9, 9), fold=1, repeat=1)]
    recipe = next(cell for cell in cells(rows) if cell.method == "recipe")
    assert recipe.uar.value == pytest.approx(0.4)
    assert recipe.difference.value == pytest.approx(0.2)


def test_p_values_are_corrected_over_methods_and_amounts_and_the_baseline_is_no_test():
    rng = np.random.default_rng(1)
    rows = [
        record(method, right=tuple(rng.integers(3, 9, size=2)), fold=fold, repeat=repeat, fraction=fraction)
        for method in ("probe", "fusion", "recipe")
        for fraction in (0.05, 0.1)
        for fold in range(1, 6)
        for repeat in range(3)
    ]
    found = cells(rows)
    tests = [cell for cell in found if cell.method != "probe"]
    assert all(np.isnan(cell.p) for cell in found if cell.method == "probe")
    smallest = min(tests, key=lambda cell: cell.difference.p)
    assert smallest.p == pytest.approx(min(1, 4 * smallest.difference.p))


def test_a_mean_over_few_labels_is_over_shares_up_to_a_tenth():
    rows = [
        record(method, right=(hits, hits), fold=fold, fraction=fraction)
        for method, gain in (("probe", 0), ("recipe", 2))
        for fraction, hits in ((0.02, 2 + gain), (0.1, 4 + 2 * gain), (1.0, 9))
        for fold in (1, 2)
    ]
    probe, recipe = means(rows)
    assert probe.amounts == (Amount(0, 0.02), Amount(0, 0.1))
    assert probe.uar.value == pytest.approx(0.3)
    assert recipe.difference.value == pytest.approx(0.3)


def test_the_probe_of_one_view_has_its_view_in_its_name():
    rows = [record(), record(view="mel"), record("fusion")]
    assert [name for name, _ in by_method(rows)] == ["probe", "probe:mel", "fusion"]
    alone = [record(view="mel"), record("fusion", "mel")]
    assert [name for name, _ in by_method(alone)] == ["probe", "probe:mel", "fusion"]


def test_of_the_papers_networks_the_view_that_validates_best_counts():
    rows = [record(fold=fold) for fold in (1, 2)]
    for fold, best in ((1, "mel"), (2, "egemaps")):
        for view in ("mel", "egemaps"):
            right = (6, 6) if view == best else (9, 9)
            fields = {"validation_uar": 0.5 + 0.1 * (view == best), "choice": None}
            rows.append(record("supervised", view, right, fold=fold, **fields))
    rows += [record("recipe", right=(7, 8), fold=fold) for fold in (1, 2)]
    network = next(cell for cell in cells(rows) if cell.method == "supervised")
    assert network.protocol == "paper"
    assert network.uar.value == pytest.approx(0.6)
    assert network.recipe.value == pytest.approx(0.15)  # the recipe minus it
    (line,) = (line for line in few_labels.table(rows).rows if "supervised" in line)
    assert line[few_labels.table(rows).head.index("recipe minus it")] == "+15.0 [+15.0, +15.0]"


def test_a_line_names_the_normalisation_and_that_it_is_transductive():
    rows = [record("recipe", fold=fold, normalise=how) for fold, how in ((1, "fold"), (2, "speaker"))]
    assert normalisation(rows) == "speaker (transductive) in 50% of runs, else fold"
    table = few_labels.table([*rows, record(fold=1), record(fold=2)])
    lines = [dict(zip(table.head, line, strict=True)) for line in table.rows]
    by_name = {line["method"]: line for line in lines}
    assert by_name["recipe"]["normalised by"] == normalisation(rows)
    assert by_name["probe"]["normalised by"] == "fold"
    assert by_name["probe"]["difference to probe"] == ""
    assert by_name["recipe"]["UAR"].startswith("40.0 [")


def test_rows_for_other_programs_have_these_keys_and_no_number_that_json_lacks(tmp_path):
    rows = [record(method, per_class=count) for method in ("probe", "recipe") for count in (None, 2)]
    path = tmp_path / "few.json"
    few_labels.save(rows, few_labels.FewLabels(json=path))
    found = json.loads(path.read_text())
    assert len(found) == 4
    assert set(found[0]) == {
        "method", "protocol", "fraction", "per_class", "n_labelled", "uar", "low", "high", "difference",
        "difference_low", "difference_high", "baseline",
    }  # fmt: skip
    assert [(row["fraction"], row["per_class"]) for row in found] == [(0.05, None)] * 2 + [(None, 2)] * 2
    recipe = found[1]
    assert (recipe["method"], recipe["uar"], recipe["difference"]) == ("recipe", 40.0, 0.0)
    assert recipe["low"] is None  # a single speaker
    assert recipe["baseline"] == "probe"


def test_the_report_shows_the_largest_set_of_views_and_leaves_runs_of_other_experiments_out():
    rows = [record(), record(view="mel"), record(view="mel+egemaps+whisper"), record(view="whisper")]
    rows += [record("probe-raw", "mel", choice=None), record("supervised", "mel", choice=None)]
    kept = few_labels.select(rows, choose(rows))
    assert [(row["method"], row["view"]) for row in kept] == [
        ("probe", "mel"), ("probe", "mel+egemaps+whisper"), ("probe", "whisper"), ("supervised", "mel"),
    ]  # fmt: skip
    assert few_labels.select(rows[-2:], choose(rows)) == []


def test_a_plan_has_every_method_and_the_pretraining_only_where_one_needs_it(make_runner):
    runner = make_runner(views=tuple(replace(view, kind="vector") for view in VIEWS))
    command = few_labels.FewLabels(folds=(1,), repeats=1, fractions=(0.1,), per_class=(2,))
    usual = few_labels.methods_of(runner, command)
    assert usual == ("probe", "fusion", "co-training", "recipe", "probe:mel", "probe:egemaps")
    plan = list(few_labels.plan(runner, command))
    assert len(plan) == len(set(plan)) == 12
    asked = replace(command, methods=("pretrained+co-training", "supervised"))
    kinds = [type(found).__name__ for found in few_labels.plan(runner, asked)]
    assert kinds == ["Pretrain"] + 2 * ["FewLabels", "FewLabels", "Finetune", "Finetune"]
    with pytest.raises(UsageError, match="--methods prob: no such method; there are probe, "):
        few_labels.methods_of(runner, replace(command, methods=("prob",)))


def test_the_figure_has_a_panel_for_shares_and_one_for_numbers(tmp_path):
    rows = [
        record(method, fold=fold, per_class=count)
        for method in ("probe", "recipe")
        for fold in (1, 2)
        for count in (None, 2, 4)
    ]
    axes = few_labels.figure(rows).axes
    assert [axis.get_xlabel() for axis in axes] == ["share of the labels", "labels of each class"]
    assert [text.get_text() for text in axes[1].get_xticklabels()] == ["2", "4"]


@pytest.mark.slow
def test_the_command_works_on_a_users_table_with_two_views(tmp_path):
    """Ten speakers, of whom each says five words in two emotions; the second command does nothing anew."""
    import soundfile

    rng, lines = np.random.default_rng(0), ["file,speaker,emotion"]
    for speaker in range(10):
        for number in range(10):
            pitch = 120 + 8 * speaker + (120 if number % 2 else 0)
            time = np.arange(16000) / 16000
            wave = np.sign(np.sin(2 * np.pi * pitch * time)) * 0.2 + 0.01 * rng.normal(size=16000)
            soundfile.write(tmp_path / f"{speaker}-{number}.wav", wave, 16000)
            lines.append(f"{speaker}-{number}.wav,s{speaker},{'angry' if number % 2 else 'sad'}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    words = "--corpus table --root mine.csv --views mel egemaps --repeats 2 --fractions 0.1 --per-class 2"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "experiments.few_labels", *words.split(), "--json", "few.json"]
    for more in ([], ["--table-only"]):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, text=True,
            capture_output=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = {
            (row["method"], row["per_class"]): row for row in json.loads((tmp_path / "few.json").read_text())
        }
        (tmp_path / "few.json").unlink()
        assert {method for method, _ in found} == {
            "probe", "fusion", "co-training", "recipe", "probe:mel", "probe:egemaps",
        }  # fmt: skip
        assert found["recipe", 2]["n_labelled"] == 4
        assert found["recipe", 2]["uar"] > 80  # the pitch doubles
