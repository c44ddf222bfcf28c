"""Table 3: how alike the views' representations are, by PWCCA, on the labelled test utterances.

    python -m experiments.alignment --corpus ravdess --root DIR

Paper (IEMOCAP, mean over folds): Pairwise-CL raises the alignment of every pair of views, most that of
wav2vec 2.0 and the spectrogram; random vectors are its baseline. The command pre-trains the folds where
that is missing, and trains each view from scratch on all labels (repeat 0): one fine-tuning per fold and
view.

It prints a Markdown table: for each ordered pair the number of test utterances n (mean over folds), PWCCA
of the pre-trained, the supervised and freshly initialised encoders, and of random vectors of the same ranks;
then linear CKA of the pre-trained and the supervised. PWCCA rises with d / n for any data: compare with the
random columns and not across corpora. Where a session has too few utterances for the ranks, some
correlations are 1 for any data, and the table says "n too small".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, get_args

import numpy as np

from experiments.experiment import Choice, Exhibit, Experiment, Facts, main
from pcl_jax.commands import flags
from pcl_jax.runs.summary import group_rows
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner, Source
    from pcl_jax.runs.spec import Measure, Spec

HEADS = {
    "n": "n",
    "pwcca pretrained": "pre-trained",
    "pwcca supervised": "supervised",
    "pwcca random": "random encoders",
    "pwcca vectors": "random vectors",
    "cka pretrained": "CKA, pre-trained",
    "cka supervised": "CKA, supervised",
}
"""Name of a measured value -> heading."""


@dataclass(frozen=True)
class Alignment(flags.Experiment):
    """PWCCA and linear CKA between views, pre-trained against supervised."""


def plan(runner: "Runner", command: flags.Experiment) -> "Iterator[Spec]":
    """Yield the runs whose encoders are compared, then each ordered pair of views."""
    from pcl_jax.runs.spec import Finetune, Measure

    for fold in command.folds:
        start = runner.pretraining(fold)
        yield start
        for view in runner.views:
            yield Finetune(fold, view, settings=runner.settings)
        for pair in permutations(runner.views, 2):
            yield Measure("alignment", fold, pair, start, runner.settings)


def measure(runner: "Runner", specs: "Sequence[Measure]") -> "Iterator[tuple[Measure, Facts]]":
    """Measure the alignment of pairs of views on the encoders of one fold."""
    from pcl_jax.runs.runner import Source

    representations: dict[tuple[str, str], np.ndarray] = {}

    def represent(spec: "Measure", view: str, source: "Source") -> np.ndarray:
        if (view, source) not in representations:
            data = runner.data(spec)
            vectors = runner.representations(spec.start, view, source, spec.settings)
            representations[view, source] = vectors[data.labelled(data.test)]
        return representations[view, source]

    for spec in specs:
        first, second = spec.views
        pairs = {
            source: (represent(spec, first, source), represent(spec, second, source))
            for source in get_args(Source)
        }
        yield (
            spec,
            {
                "view": first,
                "title": f"{runner.title([first])} | {runner.title([second])}",
                "values": values(pairs, runner.protocol.seed, spec.fold, first, second),
            },
        )


def values(
    pairs: "Mapping[Source, tuple[np.ndarray, np.ndarray]]", seed: int, *names: int | str
) -> dict[str, float | None]:
    """Return the values that `HEADS` names, of a pair of views on one fold.

    Args:
        pairs: source of the encoders -> representations `[n, d]` of the two views.
        seed: of the random vectors.
        names: fold and views, which name the draw.

    Returns:
        Numbers by name; None for a PWCCA of too few utterances.
    """
    from pcl_jax.evaluation.similarity import linear_cka, rank
    from pcl_jax.rng import seeded

    first, second = pairs["pretrained"]
    rng = seeded(seed, "random vectors", *names)
    vectors = tuple(rng.normal(size=(len(x), rank(x))) for x in (first, second))
    found: dict[str, float | None] = {"n": float(len(first))}
    found |= {f"pwcca {source}": _pwcca(*pairs[source]) for source in ("pretrained", "supervised", "random")}
    found["pwcca vectors"] = _pwcca(*vectors)
    return found | {
        f"cka {source}": float(linear_cka(*pairs[source])) for source in ("pretrained", "supervised")
    }


def _pwcca(x: np.ndarray, y: np.ndarray) -> float | None:
    from pcl_jax.evaluation.similarity import pwcca

    try:
        return float(pwcca(x, y))
    except ValueError:
        return None


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the measurements of the chosen pre-training on all utterances."""
    return [
        row
        for row in rows
        if row["method"] == "alignment" and choice.pretrained(row) and row["pretrained_on"] == "all"
    ]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per ordered pair of views, means over the folds."""
    cells = group_rows((row for row in rows if row.get("values")), lambda row: row["title"])
    lines = [
        (
            *title.partition(" | ")[::2],
            *(_cell(name, [row["values"][name] for row in cell]) for name in HEADS),
        )
        for title, cell in cells.items()
    ]
    return Table(
        "Alignment of the views",
        ("representations of", "compared with", *HEADS.values()),
        lines or [(NOT_RUN,) * (2 + len(HEADS))],
        "PWCCA of the representations of the labelled test utterances, then linear CKA; means over folds. "
        "PWCCA rises with dimensions over utterances for any data: compare with the random columns.",
    )


def _cell(name: str, numbers: Sequence[float | None]) -> str:
    if any(number is None for number in numbers):
        return "n too small"
    return f"{np.mean(numbers):.0f}" if name == "n" else f"{np.mean(numbers):.3f}"  # pyright: ignore


EXPERIMENT = Experiment(
    name="alignment",
    description=__doc__,
    flags=Alignment,
    plan=plan,
    measure=measure,
    exhibits=(Exhibit("Table 3", select, table),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
