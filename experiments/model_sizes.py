"""Table 5: parameters that stay frozen and parameters that train, in millions.

    python -m experiments.model_sizes --speech-model DIR

Paper: the 94.5 million parameters of wav2vec 2.0 are frozen throughout; what trains on top of it is small.
The numbers are computed from the models that `pcl` trains, for the features of some noise; no corpus is
read, and nothing is trained.

The command prints one Markdown table. Pre-training trains an encoder and a projection head per view, all
views at once; supervised training and fine-tuning train one view's encoder and a linear classifier, frozen
fine-tuning the classifier alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.experiment import Choice, Exhibit, Experiment, Facts, run_command
from pcl_jax import config
from pcl_jax.commands import flags
from pcl_jax.runs.tables import Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner
    from pcl_jax.runs.spec import Measure, Spec
    from pcl_jax.views.view import View


@dataclass(frozen=True)
class ModelSizes(flags.OnFeatures):
    """Numbers of parameters that each step trains."""

    views: flags.Views = ()
    classes: int = 4
    """Number of emotions."""


class Sizes(NamedTuple):
    """Numbers of parameters of one view."""

    features: int
    """Parameters of the frozen speech model that makes the features."""
    encoder: int
    head: int
    """Parameters of the projection head, for pre-training only."""
    classifier: int


def print_sizes(command: ModelSizes) -> None:
    """Print the table for the views of a command."""
    from pcl_jax.commands import session, terminal

    views = session.choose_views(command, command.views)
    sizes = {
        view.title: sizes_of(view, command.encoders, command.classes, features_of_noise(view))
        for view in views.values()
    }
    terminal.out.print(size_table(sizes).markdown(), markup=False, highlight=False)


def features_of_noise(view: "View") -> Any:
    """Return a batch of one clip's features, for views without a corpus."""
    from pcl_jax.data.ragged import pack

    # As long as the clip: all pooled frames may be the representation (`--encoders.spectral-pool flatten`).
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 15 * 16_000).astype(np.float32)
    (features,) = view.features([noise])
    return features[None] if features.ndim == 1 else pack([features])


def sizes_of(view: "View", config: config.Encoders, classes: int, features: Any) -> Sizes:
    """Count the parameters of a view's networks from their shapes; no network is made.

    Args:
        view: the view.
        config: options of the encoders.
        classes: number of emotions.
        features: a batch of the view's features, as its encoder reads it.
    """
    import jax

    from pcl_jax.models.encoders import ENCODERS
    from pcl_jax.models.heads import Classifier, ProjectionHead
    from pcl_jax.training.optimiser import count_parameters

    encoder = ENCODERS[view.kind](view, config)
    networks = [encoder, ProjectionHead(initial=config.init), Classifier(classes, config.init)]
    counts, x = [], features
    for network in networks:
        result, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
        counts.append(count_parameters(variables["params"]))
        x = result if len(counts) == 1 else x  # head and classifier both read the representation
    return Sizes(view.frozen_parameters, *counts)


def plan(runner: "Runner", command: flags.Experiment) -> "Iterator[Spec]":
    """Yield one measurement: the sizes are the same in every fold."""
    from pcl_jax.runs.spec import Measure

    fold = command.folds[0]
    yield Measure("model_sizes", fold, tuple(runner.views), runner.pretraining(fold), runner.settings)


def measure(runner: "Runner", specs: "Sequence[Measure]") -> "Iterator[tuple[Measure, Facts]]":
    """Count the parameters of the networks of each view."""
    for spec in specs:
        values, example = {}, runner.data(spec).example()
        for name in spec.views:
            view = runner.views[name]
            sizes = sizes_of(view, spec.settings.encoders, len(runner.corpus.classes), example[name])
            values |= {f"{part} {view.title}": float(count) for part, count in sizes._asdict().items()}
        yield spec, {"values": values}


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the measurements of the chosen views."""
    return [row for row in rows if row["method"] == "model_sizes" and choice.pretrained(row)][:1]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per view, of recorded sizes."""
    values = {name: int(count) for row in rows for name, count in (row.get("values") or {}).items()}
    titles = dict.fromkeys(name.split(" ", 1)[1] for name in values)
    return size_table(
        {title: Sizes(*(values[f"{part} {title}"] for part in Sizes._fields)) for title in titles}
    )


def size_table(sizes: Mapping[str, Sizes]) -> Table:
    """Return a line per view; "all" is what pre-training holds at once."""
    lines = []
    for name, size in sizes.items():
        columns = (
            size.features, size.encoder + size.head, size.encoder + size.classifier, size.encoder,
            size.classifier,
        )  # fmt: skip
        lines.append((name, *(f"{value / 1e6:.3f}" for value in columns)))
    frozen = sum(size.features for size in sizes.values())
    trained = sum(size.encoder + size.head for size in sizes.values())
    lines.append(("all", f"{frozen / 1e6:.3f}", f"{trained / 1e6:.3f}", "", "", ""))
    head = (
        "view", "frozen, features", "trained, pre-training", "trained, supervised and tuned",
        "frozen, encoder", "trained, frozen encoder",
    )  # fmt: skip
    return Table(
        "Parameters in millions", head, lines, "Paper: 94.5 million frozen parameters of wav2vec 2.0."
    )


EXPERIMENT = Experiment(
    name="model_sizes",
    description=__doc__,
    flags=flags.Experiment,
    plan=plan,
    measure=measure,
    exhibits=(Exhibit("Table 5", select, table),),
)

if __name__ == "__main__":
    run_command(ModelSizes, print_sizes, __doc__)
