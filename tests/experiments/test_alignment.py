"""The table of Table 3 from made-up representations."""

import numpy as np

from experiments.alignment import table
from pcl_jax.similarity import linear_cka, pwcca

RNG = np.random.default_rng(0)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def made_up(n: int, d: int = 4) -> dict[str, np.ndarray]:
    return {"a": RNG.normal(size=(n, d)), "b": RNG.normal(size=(n, d + 2))}


def test_each_ordered_pair_is_the_mean_over_folds():
    folds = []
    for n in (60, 80):
        shared = RNG.normal(size=(n, 4))
        of = {name: made_up(n) for name in ("supervised", "random")}
        alike = {"a": shared + 0.1 * RNG.normal(size=(n, 4)), "b": shared @ RNG.normal(size=(4, 6))}
        folds.append(of | {"pretrained": alike})
    _, _, *lines = table(folds, {"a": "A", "b": "B"}, seed=0)
    assert [cells(line)[:3] for line in lines] == [["A", "B", "70"], ["B", "A", "70"]]
    for line, (one, other) in zip(lines, (("a", "b"), ("b", "a")), strict=True):
        for column, of in ((3, "pretrained"), (4, "supervised"), (5, "random")):
            expected = np.mean([pwcca(fold[of][one], fold[of][other]) for fold in folds])
            assert cells(line)[column] == f"{expected:.3f}"
        cka = np.mean([linear_cka(fold["pretrained"]["a"], fold["pretrained"]["b"]) for fold in folds])
        assert cells(line)[7] == f"{cka:.3f}"
    assert float(cells(lines[0])[6]) < float(cells(lines[0])[3])


def test_a_session_with_too_few_utterances_says_so():
    few = {of: made_up(5, d=8) for of in ("pretrained", "supervised", "random")}
    (*_, line) = table([few], {"a": "A", "b": "B"}, seed=0)
    assert cells(line)[3] == "n too small"
    assert float(cells(line)[7]) > 0
