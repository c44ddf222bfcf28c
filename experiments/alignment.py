"""Table 3: how alike the views' representations are, by PWCCA, on the labelled test utterances.

    python -m experiments.alignment --corpus ravdess --root DIR

Paper (IEMOCAP, mean over folds): Pairwise-CL raises the alignment of every pair of views, most that of
wav2vec 2.0 and the spectrogram; random vectors are its baseline. Pre-trains the folds where that is missing,
and trains each view from scratch on all labels (repeat 0): one fine-tuning per fold and view. On a 2-core
CPU RAVDESS takes about half an hour with mel and eGeMAPS when nothing is there yet, and seconds afterwards.

Prints a Markdown table: for each ordered pair the number of test utterances n (mean over folds), PWCCA of the
pre-trained, the supervised and freshly initialised encoders, and of random vectors of the same ranks;
then linear CKA of the pre-trained and the supervised. PWCCA rises with d / n for any data: compare
with the random columns and not across corpora. Where a session has too few utterances for its ranks, some
correlations are 1 for any data; the table then says "n too small".
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import tyro

from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study

Of = Literal["pretrained", "supervised", "random"]
HEADS = {
    "n": "n",
    "pwcca pretrained": "pre-trained",
    "pwcca supervised": "supervised",
    "pwcca random": "random encoders",
    "pwcca vectors": "random vectors",
    "cka pretrained": "CKA, pre-trained",
    "cka supervised": "CKA, supervised",
}
"""What is measured -> heading."""


@dataclass(frozen=True)
class Alignment(flags.Experiment):
    """PWCCA and linear CKA between views, pre-trained against supervised."""


def main(command: Alignment) -> None:
    from pcl_jax.commands import terminal

    study = cli.open_study(command, command.views, "alignment")
    if not command.table_only:
        cli.carry_out(list(plan(study, command)), cli.share(command.shard))
    rows = [row for fold in command.folds for row in measure(study, fold, dry=command.table_only)]
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)


def plan(study: "Study", command: Alignment) -> "Iterator[Step]":
    """The runs whose encoders are compared."""
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Pretrain, Task

    for fold in command.folds:
        yield Step(study, Pretrain(fold))
        for view in study.views:
            yield Step(study, Task(fold, view))


def measure(study: "Study", fold: int, *, dry: bool = False) -> "Iterator[Row]":
    """The record of each ordered pair of views, measured where there is none (not if `dry`)."""
    from pcl_jax.runs.runner import representations

    began, done, run = time.monotonic(), study.done(), study.pretraining_folder(fold)
    made: dict[tuple[str, str], np.ndarray] = {}

    def of(view: str, kind: Of) -> np.ndarray:
        if (view, kind) not in made:
            data = study.data(fold)
            made[view, kind] = representations(study, fold, view, kind, run)[data.labelled(data.test)]
        return made[view, kind]

    for one, other in permutations(study.views, 2):
        folder = study.measured("alignment", fold, (one, other), run)
        if row := done.get(study.relative(folder)):
            yield row
        elif not dry:
            pairs = {kind: (of(one, kind), of(other, kind)) for kind in get_args(Of)}
            yield study.record(
                folder,
                method="alignment",
                fold=fold,
                view=one,
                title=f"{study.title([one])} | {study.title([other])}",
                views=tuple(study.views),
                temperature=study.settings.pretraining.temperature,
                pretrained_on=study.pretrained_on,
                values=values(pairs, study.seed, fold, one, other),
                seconds=time.monotonic() - began,
            )


def values(
    pairs: Mapping[Of, tuple[np.ndarray, np.ndarray]], seed: int, *names: int | str
) -> dict[str, float | None]:
    """What `HEADS` names, of a pair of views on one fold; None for a PWCCA of too few utterances."""
    from pcl_jax.evaluation.similarity import linear_cka, rank
    from pcl_jax.rng import seeded

    one, other = pairs["pretrained"]
    rng = seeded(seed, "random vectors", *names)
    vectors = tuple(rng.normal(size=(len(x), rank(x))) for x in (one, other))
    found: dict[str, float | None] = {"n": float(len(one))}
    found |= {f"pwcca {kind}": _pwcca(*pair) for kind, pair in pairs.items()}
    found["pwcca vectors"] = _pwcca(*vectors)
    return found | {f"cka {kind}": float(linear_cka(*pairs[kind])) for kind in get_args(Of)[:2]}


def _pwcca(x: np.ndarray, y: np.ndarray) -> float | None:
    from pcl_jax.evaluation.similarity import pwcca

    try:
        return float(pwcca(x, y))
    except ValueError:
        return None


def table(rows: "Sequence[Row]") -> Table:
    """One line per ordered pair of views, means over the folds."""
    lines = []
    for title in dict.fromkeys(row["title"] for row in rows):
        of_pair = [row["values"] for row in rows if row["title"] == title]
        cells = []
        for name in HEADS:
            some = [found[name] for found in of_pair]
            if any(value is None for value in some):
                cells.append("n too small")
            else:
                cells.append(f"{np.mean(some):.0f}" if name == "n" else f"{np.mean(some):.3f}")
        lines.append((*title.split(" | "), *cells))
    if not lines:
        lines = [(NOT_RUN,) * (2 + len(HEADS))]
    return Table(
        "Alignment of the views",
        ("of", "with", *HEADS.values()),
        lines,
        "PWCCA of the representations of the labelled test utterances, then linear CKA; means over folds.",
    )


if __name__ == "__main__":
    command = tyro.cli(Alignment, default=flags.default(Alignment, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
