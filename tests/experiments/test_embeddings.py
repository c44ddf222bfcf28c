"""Panels of made-up representations: numbers by hand, pictures with all that is said of them."""

import numpy as np
import pytest

from experiments.embeddings import draw, panel, table


def groups(distance: float, n: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Three emotions in 8 dimensions, each around its own centre."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), n)
    return distance * np.eye(8)[labels] + 0.1 * rng.normal(size=(3 * n, 8)), labels


def test_silhouette_and_neighbours_are_one_for_separate_emotions_and_near_zero_for_mixed_ones():
    x, labels = groups(10)
    apart = panel(x, labels, x, labels, 3, seed=0)
    assert apart.points.shape == (45, 2)
    assert apart.silhouette > 0.95
    assert apart.neighbours == 1
    x, labels = groups(0)
    mixed = panel(x, labels, x[::-1], labels, 3, seed=0)
    assert abs(mixed.silhouette) < 0.1
    assert mixed.neighbours < 0.6


def test_a_class_that_the_test_session_lacks_counts_zero_in_uar():
    """UAR over the corpus's classes: two of three are right."""
    x, labels = groups(10)
    present = labels < 2
    found = panel(x, labels, x[present], labels[present], 3, seed=0)
    assert found.neighbours == pytest.approx(2 / 3)


def test_the_figure_is_the_same_file_each_time(tmp_path):
    x, labels = groups(10)
    found = panel(x, labels, x, labels, 3, seed=0)
    panels = {(kind, "mel"): found for kind in ("pretrained", "random")}
    speakers = ["a", "b", "c"] * 15
    for name in ("one", "two"):
        draw(tmp_path / name, panels, {"mel": "mel"}, labels, speakers, ("calm", "angry", "sad"))
    one, two = ((tmp_path / name / "figure.svg").read_bytes() for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / "figure.png").stat().st_size > 1000


def test_the_table_has_a_line_per_fold_and_view():
    values = {
        f"{name} {kind} wav2vec2 (a b)": value
        for kind in ("pretrained", "supervised", "random")
        for name, value in (("silhouette", 0.12), ("neighbours", 0.5))
    }
    assert table([{"fold": 5, "values": values}]).rows == [("5", "wav2vec2 (a b)", *["0.12, 50.0"] * 3)]
    assert table([]).rows[0][0] == "not run"
