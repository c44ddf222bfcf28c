"""Table 5: parameters that stay frozen and parameters that train, in millions.

    python -m experiments.model_sizes --speech-model DIR

Paper: wav2vec 2.0's 94.5 million are frozen throughout; what trains on top of it is small. Computed from the
models that `pcl` trains, for the features of some noise; no corpus is read, and nothing is trained.

Prints one Markdown table. Pre-training trains an encoder and a projection head per view, all views at once;
supervised training and fine-tuning train one view's encoder and a linear classifier, frozen fine-tuning the
classifier alone.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tyro

from pcl_jax import cli, config
from pcl_jax.commands import flags
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.views.view import View


@dataclass(frozen=True)
class ModelSizes(flags.OnFeatures):
    """How many parameters each step trains."""

    views: flags.Views = ()
    classes: int = 4


class Sizes(NamedTuple):
    """Parameters of one view."""

    features: int
    """Of the frozen speech model that makes the features."""
    encoder: int
    head: int
    """Projection head: pre-training only."""
    classifier: int


def main(command: ModelSizes) -> None:
    from pcl_jax.commands import terminal

    views = cli.choose_views(command, command.views)
    sizes = {view.title: sizes_of(view, command.encoders, command.classes) for view in views.values()}
    terminal.out.print(table(sizes).markdown(), markup=False, highlight=False)


def sizes_of(view: "View", config: config.Encoders, classes: int) -> Sizes:
    """Count the parameters of a view's networks; they are shaped, not made."""
    import jax

    from pcl_jax.data.ragged import pack
    from pcl_jax.models.encoders import ENCODERS
    from pcl_jax.models.heads import Classifier, ProjectionHead
    from pcl_jax.training.optimiser import count_parameters

    # As long as the clip: all pooled frames may be the representation (`--encoders.spectral-pool flatten`).
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 15 * 16_000).astype(np.float32)
    (features,) = view.features([noise])
    batch = features[None] if features.ndim == 1 else pack([features])
    networks = [
        ENCODERS[view.kind](view, config),
        ProjectionHead(initial=config.init),
        Classifier(classes, config.init),
    ]
    counts, x = [], batch
    for network in networks:
        result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        counts.append(count_parameters(variables["params"]))
        x = result if len(counts) == 1 else x  # head and classifier both read the representation
    return Sizes(view.frozen_parameters, *counts)


def table(sizes: Mapping[str, Sizes]) -> Table:
    """A line per view; "all" is what pre-training holds at once."""
    lines = []
    for name, of in sizes.items():
        columns = (of.features, of.encoder + of.head, of.encoder + of.classifier, of.encoder, of.classifier)
        lines.append((name, *(f"{value / 1e6:.3f}" for value in columns)))
    frozen = sum(of.features for of in sizes.values())
    trained = sum(of.encoder + of.head for of in sizes.values())
    lines.append(("all", f"{frozen / 1e6:.3f}", f"{trained / 1e6:.3f}", "", "", ""))
    head = (
        "view", "frozen, features", "trained, pre-training", "trained, supervised and tuned",
        "frozen, encoder", "trained, frozen encoder",
    )  # fmt: skip
    return Table("Parameters in millions", head, lines)


if __name__ == "__main__":
    command = tyro.cli(ModelSizes, default=flags.default(ModelSizes, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
