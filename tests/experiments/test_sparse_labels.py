"""The table of Figure 3 from made-up records, by hand."""

import numpy as np
import pytest

from experiments.sparse_labels import table
from pcl_jax.runs.summary import amounts, gains, pairs, per_repeat, scores_of
from pcl_jax.runs.tables import NOT_RUN


def record(fold: int, repeat: int, method: str, uar: float, **fields) -> dict:
    return {
        "view": "mel", "title": "mel", "fold": fold, "repeat": repeat, "fraction": 0.05, "method": method,
        "frozen": False, "n_labelled": 8, "uar": uar,
    } | fields  # fmt: skip


def cells(table) -> list[dict[str, str]]:
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def test_a_repeat_is_the_mean_over_its_folds_and_counts_only_with_all_of_them():
    rows = [record(fold, repeat, "supervised", 0.1 * fold + repeat) for fold in (1, 2) for repeat in (0, 1)]
    assert per_repeat(rows, {1, 2}) == pytest.approx({0: 15, 1: 115})
    rows.append(record(1, 2, "supervised", 0.9))  # fold 2 of this repeat has not run
    assert per_repeat(rows, {1, 2}) == pytest.approx({0: 15, 1: 115})
    assert not per_repeat(rows, {1, 2, 3})  # a fold without any run


def test_a_cell_has_mean_intervals_gain_and_exact_p():
    rows = []
    for repeat, (before, after) in enumerate([(0.50, 0.60), (0.52, 0.61), (0.54, 0.65)]):
        rows += [record(1, repeat, "supervised", before), record(1, repeat, "pairwise-cl", after)]
    (cell,) = cells(table(rows))
    # t(0.975, 2) = 4.3027: s = 2 gives 4.97, and the gains 10, 9, 11 have s = 1. All of one side above all
    # of the other is 2 of C(6, 3) = 20 orders, and two of the 2^3 sign flips.
    assert cell["supervised"] == "52.0 ± 5.0"
    assert cell["Pairwise-CL, tuned"].startswith("62.0 ± ")
    assert cell["Pairwise-CL, frozen"] == NOT_RUN
    assert cell["tuned - supervised"] == "+10.0 ± 2.5"
    assert cell["p (U)"] == "0.100 ns"
    assert cell["p (W, Holm)"] == "0.250"
    assert cell["δ"] == "+1.00"


def test_a_gain_uses_the_repeats_that_both_have_and_holm_counts_the_cells():
    """Ten gains of one sign have p = 2 / 2^10; two such cells, corrected for two tests, twice that."""
    up = {repeat: 50.0 + 0.5 * repeat**2 for repeat in range(10)}
    base = {repeat: 50.0 - repeat for repeat in range(9, -1, -1)} | {10: 0.0}
    base[0] = 49.9
    found = gains({"a": (up, base), "b": (up, base), "c": ({0: 1.0}, base)})
    assert set(found) == {"a", "b"}
    assert found["a"].repeats == 10
    assert found["a"].wilcoxon == pytest.approx(2 * 2 / 2**10)
    assert found["a"].mean == pytest.approx(np.mean([up[r] - base[r] for r in range(10)]))
    assert found["a"].low < found["a"].mean < found["a"].high
    assert found["a"].mark == "*"
    assert gains({"a": (up, base)})["a"].wilcoxon == pytest.approx(2 / 2**10)


def test_numbers_of_labels_of_each_class_stand_after_the_shares():
    rows = [
        record(1, 0, "supervised", 0.5, fraction=fraction, per_class=count)
        for fraction, count in ((1.0, None), (0.05, None), (1.0, 20), (1.0, 5))
    ]
    texts = list(map(str, amounts(rows)))
    assert texts == ["5%", "100%", "5 a class", "20 a class"]
    assert [cell["labels"] for cell in cells(table(rows))] == texts


def test_two_speech_models_of_one_view_have_two_lines():
    rows = [
        record(1, 0, "supervised", 0.5, title=f"wav2vec2 ({name})") for name in ("a", "untrained stand-in")
    ]
    assert [cell["view"] for cell in cells(table(rows))] == ["wav2vec2 (a)", "wav2vec2 (untrained stand-in)"]


def test_shares_that_would_print_alike_are_two_cells():
    rows = [record(1, 0, "supervised", uar, fraction=share) for share, uar in ((0.02, 0.3), (0.024, 0.9))]
    found = {cell["labels"]: cell["supervised"] for cell in cells(table(rows))}
    assert found == {"2%": "30.0", "2.4%": "90.0"}


def test_two_runs_of_one_cell_are_refused():
    with pytest.raises(ValueError, match="two runs of fold 1, repeat 0 in one cell; one is b"):
        table([record(1, 0, "supervised", 0.5, run=name) for name in "ab"])


def test_one_more_run_on_a_further_fold_drops_nothing():
    """Four folds with three repeats, and the first run of a fifth fold."""
    rows = [record(fold, repeat, "supervised", 0.5) for fold in (1, 2, 3, 4) for repeat in range(3)]
    more = [*rows, record(5, 0, "supervised", 0.9)]
    assert scores_of(more) == scores_of(rows)
    assert set(scores_of(more).by_repeat) == {0, 1, 2}


def test_cells_with_fewer_folds_say_so_and_a_gain_is_over_the_folds_that_both_have():
    rows = [record(fold, repeat, "supervised", 0.1 * fold) for fold in (1, 2, 3) for repeat in (0, 1)]
    rows += [record(fold, repeat, "pairwise-cl", 0.1 * fold + 0.2) for fold in (1, 2) for repeat in (0, 1)]
    (cell,) = cells(table(rows))
    assert cell["supervised"] == "20.0 ± 0.0"
    assert cell["Pairwise-CL, tuned"] == "35.0 ± 0.0 (2 of 3 folds)"
    ((tuned, supervised),) = pairs(rows, "tuned", "supervised").values()
    assert tuned == pytest.approx({0: 35, 1: 35})
    assert supervised == pytest.approx({0: 15, 1: 15})  # folds 1 and 2
    assert cell["tuned - supervised"] == "+20.0 ± 0.0"


def test_a_table_of_no_runs_is_empty():
    assert table([]).rows == []


@pytest.mark.parametrize("words", [["--folds", "6"], ["--fractions", "many"]])
def test_wrong_flags_end_with_code_2(words, capsys):
    import tyro

    from experiments.sparse_labels import SparseLabels

    with pytest.raises(SystemExit) as stop:
        tyro.cli(SparseLabels, args=words)
    assert stop.value.code == 2
