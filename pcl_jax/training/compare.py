"""One fold: supervised against Pairwise-CL, frozen and tuned, and logistic regression beside them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pcl_jax.training.runs import Row, evaluate_all
from pcl_jax.training.study import Probe, Study, Task

WAYS = {
    "supervised": "supervised",
    "frozen": "Pairwise-CL, frozen",
    "tuned": "Pairwise-CL, tuned",
}
"""The networks: name -> heading."""
PROBES = {
    "probe-raw": "probe, features",
    "probe-random": "probe, random",
    "probe-pretrained": "probe, pre-trained",
}
"""Logistic regressions: on pooled features, on a fresh and on a pre-trained encoder's representation."""


def grid(
    fold: int, views: Iterable[str], pretrained: Path, repeats: Mapping[float, int], *, probes: bool
) -> Iterator[Task | Probe]:
    """The runs of a fold; `repeats` maps each fraction of the labels to how often."""
    views = tuple(views)
    for fraction, times in sorted(repeats.items()):
        for repeat in range(times):
            for view in views:
                yield Task(fold, view, None, False, fraction, repeat)
                yield Task(fold, view, pretrained, True, fraction, repeat)
                yield Task(fold, view, pretrained, False, fraction, repeat)
                if probes:
                    yield Probe(fold, view, "probe-raw", None, fraction, repeat)
                    yield Probe(fold, view, "probe-random", None, fraction, repeat)
                    yield Probe(fold, view, "probe-pretrained", pretrained, fraction, repeat)


def way(row: Row) -> str:
    """Which of `WAYS` or `PROBES` a record is of."""
    if row["method"] == "pairwise-cl":
        return "frozen" if row["frozen"] else "tuned"
    return row["method"]


def compare(
    study: Study, fold: int, pretrained: Path, repeats: Mapping[float, int], *, probes: bool = False
) -> Iterator[tuple[int, int, Row]]:
    """Run what is missing; yields how many are done, how many there are, and the latest record."""
    runs = list(grid(fold, study.views, pretrained, repeats, probes=probes))
    for number, row in enumerate(evaluate_all(study, runs), start=1):
        yield number, len(runs), row
