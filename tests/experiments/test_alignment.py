"""The numbers and the table of Table 3 from made-up representations."""

import numpy as np
import pytest

from experiments.alignment import HEADS, table, values
from pcl_jax.evaluation.similarity import linear_cka, pwcca
from pcl_jax.rng import seeded

RNG = np.random.default_rng(0)


def made_up(n: int, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(size=(n, d)), RNG.normal(size=(n, d + 2))


def pairs(n: int, d: int = 4) -> dict:
    shared = RNG.normal(size=(n, d))
    alike = shared + 0.1 * RNG.normal(size=(n, d)), shared @ RNG.normal(size=(d, d + 2))
    return {"pretrained": alike, "supervised": made_up(n, d), "random": made_up(n, d)}


def row(title: str, found: dict) -> dict:
    return {"title": title, "values": found}


def test_values_depend_on_the_order_of_the_pair_and_on_the_fold():
    made = pairs(60)
    found = values(made, 0, 1, "a", "b")
    for kind in ("pretrained", "supervised", "random"):
        assert found[f"pwcca {kind}"] == pytest.approx(pwcca(*made[kind]))
    assert found["cka supervised"] == pytest.approx(linear_cka(*made["supervised"]))
    assert found["pwcca pretrained"] != pwcca(*made["pretrained"][::-1])
    assert found["pwcca vectors"] < found["pwcca pretrained"]
    assert found["n"] == 60
    assert list(found) == list(HEADS)
    assert values(made, 0, 2, "a", "b")["pwcca vectors"] != found["pwcca vectors"]


def test_random_vectors_have_the_ranks_of_the_representations():
    """ReLU networks have dead units; random vectors of all dimensions would score higher."""
    x, y = made_up(60, 10)
    x[:, 3:], y[:, 5:] = 0, 0
    ranks = values({"pretrained": (x, y), "supervised": (x, y), "random": (x, y)}, 0, 1, "a", "b")
    full = values({kind: made_up(60, 10) for kind in ("pretrained", "supervised", "random")}, 0, 1, "a", "b")
    rng = seeded(0, "random vectors", 1, "a", "b")
    expected = pwcca(rng.normal(size=(60, 3)), rng.normal(size=(60, 5)))
    assert ranks["pwcca vectors"] == pytest.approx(expected)
    assert ranks["pwcca vectors"] < full["pwcca vectors"]


def test_a_line_of_the_table_is_the_mean_over_folds():
    found = [values(pairs(n), 0, fold, "a", "b") for fold, n in ((1, 60), (2, 80))]
    ((first, second, n, *cells),) = table([row("A | B", of_fold) for of_fold in found]).rows
    assert (first, second, n) == ("A", "B", "70")
    for cell, name in zip(cells, list(HEADS)[1:], strict=True):
        assert cell == f"{np.mean([of_fold[name] for of_fold in found]):.3f}"


def test_the_table_says_so_where_a_session_has_too_few_utterances():
    few = values(pairs(5, d=8), 0, 1, "a", "b")
    ((_, _, _, *cells),) = table([row("A | B", few)]).rows
    assert cells[0] == "n too small"
    assert float(cells[4]) > 0
