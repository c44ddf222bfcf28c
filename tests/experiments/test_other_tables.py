"""Tables of freezing, pre-training data and sets of views from made-up records, by hand."""

import pytest

from experiments import freezing, pretraining_data, views_ablation
from experiments.figures import over_unlabelled, subset_curves

TWO, THREE = ("mel", "egemaps"), ("mel", "egemaps", "whisper")


def record(uar: float, *, fold=1, repeat=0, method="pairwise-cl", frozen=False, on="all", views=TWO) -> dict:
    pretrained = method == "pairwise-cl"
    return {
        "title": "mel", "view": "mel", "fold": fold, "repeat": repeat, "fraction": 0.05, "method": method,
        "frozen": frozen, "uar": uar, "wa": uar - 0.1, "views": views if pretrained else (),
        "pretrained_on": on if pretrained else None, "counts": (3, 4), "utterances": 10, "n_labelled": 2,
    }  # fmt: skip


def cells(table) -> list[dict[str, str]]:
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def test_freezing_has_uar_and_wa_of_each_method_in_one_line():
    rows = [record(0.5 + 0.1 * fold, fold=fold) for fold in (1, 2)]
    rows += [record(0.4, fold=fold, frozen=True) for fold in (1, 2)] + [record(0.3, method="supervised")]
    (line,) = cells(freezing.table(rows))
    assert line["Pairwise-CL, tuned, UAR"] == "65.0"
    assert line["Pairwise-CL, tuned, WA"] == "55.0"
    assert line["Pairwise-CL, frozen, UAR"] == "40.0"
    assert line["supervised, UAR"] == "30.0 (1 of 2 folds)"
    (line,) = cells(freezing.table(rows[:-1]))
    assert line["supervised, UAR"] == "not run"


def test_figure_4_has_target_minus_other_of_the_same_repeat():
    rows = [
        record(uar + 0.01 * repeat, repeat=repeat, on=on)
        for repeat in range(3)
        for on, uar in (("all", 0.5), ("target", 0.6), ("out_of_distribution", 0.55))
    ]
    (line,) = cells(pretraining_data.table(rows))
    assert line["all"].startswith("51.0 ±")
    assert line["target emotions"].startswith("61.0 ±")
    assert line["target - other"].startswith("+5.0 ±")
    assert "7 of them of target emotions" in pretraining_data.table(rows).note
    assert pretraining_data.table([]).rows == []


def test_figure_4_draws_target_and_other_emotions_and_marks_their_difference():
    rows = [
        record(uar + 0.001 * repeat, repeat=repeat, on=on)
        for repeat in range(4)
        for on, uar in (("target", 0.6), ("out_of_distribution", 0.5))
    ]
    (axis,) = subset_curves(rows).axes
    found = {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
    assert found == {
        "pre-trained on target emotions": pytest.approx([60.15]),
        "on other emotions": pytest.approx([50.15]),
    }
    assert [text.get_text() for text in axis.texts] == ["*"]


def test_each_set_of_views_is_a_column_that_is_empty_for_views_outside_it():
    rows = [record(0.5), record(0.6, views=THREE), record(0.3, method="supervised")]
    rows += [record(0.7, views=("egemaps", "whisper")) | {"title": "egemaps", "view": "egemaps"}]
    egemaps, mel = cells(views_ablation.table(rows))
    assert (mel["supervised"], mel["mel + egemaps"], mel["mel + egemaps + whisper"]) == (
        "30.0",
        "50.0",
        "60.0",
    )
    assert mel["egemaps + whisper"] == ""
    assert egemaps["egemaps + whisper"] == "70.0"
    assert egemaps["mel + egemaps"] == "not run"


def test_the_curve_over_unlabelled_speech_starts_at_none_and_names_extra_corpora():
    rows = [record(0.3, method="supervised"), record(0.9, frozen=True), record(0.8, on="target")]
    for on, seen, uar in (("all", 320, 0.5), ("all + other", 400, 0.6), ("all, 128 utterances", 128, 0.4)):
        rows.append(record(uar, on=on) | {"n_pretrained": seen})
    table = pretraining_data.amounts_table(rows)
    assert table.head[2:] == ("supervised", "128", "320", "400 + other")
    assert table.rows == [("mel", "5%", "30.0", "40.0", "50.0", "60.0")]
    figure = over_unlabelled(rows, pretraining_data.by_amount(rows))
    (axis,) = figure.axes
    assert axis.lines[0].get_xdata().tolist() == [0, 128, 320, 400]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([30, 40, 50, 60])
