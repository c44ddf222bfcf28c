"""The table of Figure 3 from made-up records, by hand."""

import numpy as np
import pytest

from experiments.sparse_labels import per_repeat, table


def record(fold: int, repeat: int, method: str, uar: float, **other) -> dict:
    return {
        "view": "mel", "title": "mel", "fold": fold, "repeat": repeat, "fraction": 0.05, "method": method,
        "frozen": False, "n_labelled": 8, "uar": uar,
    } | other  # fmt: skip


def test_a_repeat_is_the_mean_over_its_folds_and_counts_only_when_all_are_there():
    rows = [record(fold, repeat, "supervised", 0.1 * fold + repeat) for fold in (1, 2) for repeat in (0, 1)]
    np.testing.assert_allclose(per_repeat(rows, {1, 2}), [15, 115])
    rows.append(record(1, 2, "supervised", 0.9))  # fold 2 of this repeat has not run
    np.testing.assert_allclose(per_repeat(rows, {1, 2}), [15, 115])
    assert per_repeat(rows, {1, 2, 3}).size == 0  # a fold without any run


def test_a_cell_has_mean_interval_gain_and_exact_p():
    rows = []
    for repeat, (before, after) in enumerate([(0.50, 0.60), (0.52, 0.61), (0.54, 0.65)]):
        rows += [record(1, repeat, "supervised", before), record(1, repeat, "pairwise-cl", after)]
    header, _, line = table(rows)
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    # t(0.975, 2) = 4.3027: s = 2 gives 4.97, and the gains 10, 9, 11 have s = 1. All of one side above all
    # of the other is 2 of C(6, 3) = 20 orders.
    assert cells["supervised"] == "52.0 ± 5.0"
    assert cells["Pairwise-CL, tuned"].startswith("62.0 ± ")
    assert cells["Pairwise-CL, frozen"] == "not run"
    assert cells["tuned - supervised"] == "+10.0 ± 2.5"
    assert cells["p |"] == "0.10 |"


def test_speech_models_of_one_view_are_told_apart():
    rows = [
        record(1, 0, "supervised", 0.5, title=f"wav2vec2 ({name})") for name in ("a", "untrained stand-in")
    ]
    lines = list(table(rows))[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| wav2vec2 (a)", "| wav2vec2 (untrained stand-in)"]


@pytest.mark.parametrize("words", [["--folds", "6"], ["--fractions", "many"]])
def test_wrong_flags_are_one_message(words, capsys):
    import tyro

    from experiments.sparse_labels import SparseLabels

    with pytest.raises(SystemExit) as stop:
        tyro.cli(SparseLabels, args=words)
    assert stop.value.code == 2
