"""Table 3: how alike the views' representations are, by PWCCA, on the labelled test utterances.

    python -m experiments.alignment --corpus ravdess --root DIR

Paper (IEMOCAP, mean over folds): Pairwise-CL raises the alignment of every pair of views, most that of
wav2vec 2.0 and the spectrogram; random vectors are its baseline. Pre-trains the folds where that is missing,
and trains each view from scratch on all labels (repeat 0): one fine-tuning per fold and view. On a 2-core
CPU RAVDESS takes about half an hour with mel and eGeMAPS when nothing is there yet, and seconds afterwards.

Prints a Markdown table: for each ordered pair the number of test utterances n (mean over folds), PWCCA of the
pre-trained, the supervised and freshly initialised encoders, and of random vectors of the same shape;
then linear CKA of the pre-trained and the supervised. PWCCA rises with d / n for any data: compare
with the random columns and not across corpora. A session with no more utterances than dimensions has
no PWCCA, which is said.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Literal, get_args

import numpy as np
import tyro

from pcl_jax import cli, config, flags

Of = Literal["pretrained", "supervised", "random"]


@dataclass(frozen=True)
class Alignment(flags.OnFeatures):
    """PWCCA and linear CKA between views, pre-trained against supervised."""

    views: flags.Views = ()
    folds: tuple[flags.Fold, ...] = (1, 2, 3, 4, 5)
    """Test sessions."""
    pretraining: config.Pretraining = field(default_factory=config.Pretraining)
    finetuning: config.Finetuning = field(default_factory=config.Finetuning)


def main(command: Alignment) -> None:
    from pcl_jax import terminal
    from pcl_jax.training.runs import representations

    study = cli.open_study(command, command.views, "alignment")
    folds = []
    for fold in command.folds:
        run = cli.pretrain_fold(study, fold)
        data = study.data(fold)
        test = data.labelled(data.test)
        folds.append(
            {
                of: {view: representations(study, fold, view, of, run)[test] for view in study.views}
                for of in get_args(Of)
            }
        )
    names = {view: study.title([view]) for view in study.views}
    terminal.out.print("\n".join(table(folds, names, study.seed)), markup=False, highlight=False)


def table(folds: list[dict[Of, dict[str, np.ndarray]]], names: Mapping[str, str], seed: int) -> Iterator[str]:
    """Markdown: one line per ordered pair of views, means over the folds."""
    from pcl_jax.batches import seeded
    from pcl_jax.similarity import linear_cka

    yield (
        "| of | with | n | pre-trained | supervised | random encoders | random vectors "
        "| CKA, pre-trained | CKA, supervised |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for one, other in permutations(names, 2):
        rng = seeded(seed, "random vectors", one, other)
        pairs = {of: [(fold[of][one], fold[of][other]) for fold in folds] for of in get_args(Of)}
        vectors = [tuple(rng.normal(size=x.shape) for x in pair) for pair in pairs["pretrained"]]
        cells = [mean_pwcca(pairs[of]) for of in get_args(Of)] + [mean_pwcca(vectors)]
        cells += [f"{np.mean([linear_cka(*pair) for pair in pairs[of]]):.3f}" for of in get_args(Of)[:2]]
        n = np.mean([len(x) for x, _ in vectors])
        yield f"| {names[one]} | {names[other]} | {n:.0f} | " + " | ".join(cells) + " |"


def mean_pwcca(pairs: list) -> str:
    """The mean over folds; why there is none."""
    from pcl_jax.similarity import pwcca

    try:
        return f"{np.mean([pwcca(*pair) for pair in pairs]):.3f}"
    except ValueError:
        return "n too small"


if __name__ == "__main__":
    command = tyro.cli(Alignment, default=flags.default(Alignment, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
