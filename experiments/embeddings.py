"""Figures 5 and 6: the representations of a fold's test utterances, in two dimensions.

    python -m experiments.embeddings --corpus emodb --root DIR

Paper (IEMOCAP, last fold): pre-trained representations group by emotion before any label is seen, less so
those of fresh encoders, least the spectrogram's. A picture by t-SNE invites stories, so two numbers of the
representation itself stand at each panel: the silhouette of the emotions (-1 to 1; 0 is no structure), and
the UAR of the ten nearest labelled training utterances. Both are computed after scaling by the training
utterances.

The command trains what is missing (the fold's pre-training, each view from scratch on all labels), writes
the figure below the runs folder as SVG and PNG, and prints the numbers as a Markdown table. Colour is the
emotion, marker the speaker.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.experiment import Choice, Exhibit, Experiment, Facts, main
from experiments.figures import pyplot, save
from pcl_jax.commands import flags
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.runner import Runner, Source
    from pcl_jax.runs.spec import Measure, Spec

HEADS: "dict[Source, str]" = {"pretrained": "pre-trained", "supervised": "supervised", "random": "random"}
"""Source of an encoder -> heading."""
NEIGHBOURS = 10
"""Labelled training utterances that vote on a test utterance."""
PICTURE = "figure.svg"
"""File in the folder of a measurement."""


@dataclass(frozen=True)
class Embeddings(flags.Experiment):
    """t-SNE of representations, with numbers."""

    folds: tuple[flags.Fold, ...] = (5,)
    """Test sessions, a figure each; the paper shows the last."""


class Panel(NamedTuple):
    """Drawing of one encoder's representations, and its numbers."""

    points: np.ndarray
    """[n, 2], by t-SNE."""
    silhouette: float
    neighbours: float
    """UAR of the nearest neighbours' majority."""


def plan(runner: "Runner", command: flags.Experiment) -> "Iterator[Spec]":
    """Yield the runs whose encoders are drawn, then the drawing of each fold."""
    from pcl_jax.runs.spec import Finetune, Measure

    for fold in command.folds:
        start = runner.pretraining(fold)
        yield start
        for view in runner.views:
            yield Finetune(fold, view, settings=runner.settings)
        yield Measure("embeddings", fold, tuple(runner.views), start, runner.settings)


def measure(runner: "Runner", specs: "Sequence[Measure]") -> "Iterator[tuple[Measure, Facts]]":
    """Draw the representations of a fold, and measure them."""
    for spec in specs:
        data, classes = runner.data(spec), len(runner.corpus.classes)
        train, test = data.labelled(data.train), data.labelled(data.test)
        panels: dict[tuple[Source, str], Panel] = {}
        for source in HEADS:
            for view in spec.views:
                x = runner.representations(spec.start, view, source, spec.settings)
                x = (x - x[data.train].mean(axis=0)) / np.maximum(x[data.train].std(axis=0), 1e-6)
                panels[source, view] = panel(
                    x[train], data.labels[train], x[test], data.labels[test], classes, runner.protocol.seed
                )
        utterances = runner.loader.folds[spec.fold].test
        speakers = [u.speaker for u in utterances if runner.corpus.label(u) is not None]
        titles = {view: runner.title([view]) for view in spec.views}
        draw(runner.ledger.folder(spec), panels, titles, data.labels[test], speakers, runner.corpus.classes)
        values = {
            f"{name} {source} {titles[view]}": getattr(found, name)
            for (source, view), found in panels.items()
            for name in ("silhouette", "neighbours")
        }
        yield spec, {"values": values}


def panel(
    train: np.ndarray, known: np.ndarray, test: np.ndarray, truth: np.ndarray, classes: int, seed: int
) -> Panel:
    """Return the points and the numbers of test representations.

    Args:
        train: representations `[m, d]` of labelled training utterances.
        known: their class numbers `[m]`.
        test: representations `[n, d]` of labelled test utterances.
        truth: their class numbers `[n]`.
        classes: number of classes of the corpus.
        seed: of t-SNE.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import KNeighborsClassifier

    from pcl_jax.evaluation.metrics import uar

    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, known).predict(test)
    several = 1 < len(set(truth.tolist())) < len(truth)
    drawing = TSNE(perplexity=max(1.0, min(30.0, (len(test) - 1) / 3)), init="pca", random_state=seed)
    return Panel(
        drawing.fit_transform(test.astype(np.float64)),
        float(silhouette_score(test, truth)) if several else 0.0,
        uar(truth, nearest, classes),
    )


def draw(
    folder: Path,
    panels: "Mapping[tuple[Any, str], Panel]",
    titles: Mapping[str, str],
    labels: np.ndarray,
    speakers: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Write `figure.svg` and `figure.png`: a row per source of the encoders, a column per view."""
    kinds: list[Source] = list(dict.fromkeys(kind for kind, _ in panels))
    figure, axes = pyplot().subplots(
        len(kinds), len(titles), figsize=(3.1 * len(titles), 3.1 * len(kinds)), squeeze=False
    )
    markers = "osD^vP*Xdph<>"
    known = sorted(set(speakers))
    for i, kind in enumerate(kinds):
        for j, (view, title) in enumerate(titles.items()):
            found, axis = panels[kind, view], axes[i][j]
            for c in range(len(classes)):
                for s, speaker in enumerate(known):
                    shown = (labels == c) & (np.asarray(speakers) == speaker)
                    axis.scatter(
                        *found.points[shown].T,
                        s=9, color=f"C{c % 10}", marker=markers[s % len(markers)], linewidths=0,
                    )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{title}, {HEADS[kind]}", fontsize=8)
            axis.set_xlabel(
                f"silhouette {found.silhouette:.2f}, neighbours {100 * found.neighbours:.0f} % UAR",
                fontsize=7,
            )
    handles = [pyplot().Line2D([], [], color=f"C{c % 10}", marker="o", ls="") for c in range(len(classes))]
    figure.legend(handles, classes, loc="lower center", ncols=len(classes), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    save(figure, folder / "figure")


def select(rows: "Sequence[Row]", choice: Choice) -> "list[Row]":
    """Return the drawings of the chosen pre-training on all utterances."""
    return [
        row
        for row in rows
        if row["method"] == "embeddings" and choice.pretrained(row) and row["pretrained_on"] == "all"
    ]


def table(rows: "Sequence[Row]") -> Table:
    """Return a line per fold and view."""
    lines = []
    for row in rows:
        if not row.get("values"):
            continue
        for view in dict.fromkeys(name.split(" ", 2)[2] for name in row["values"]):
            cells = [
                f"{row['values'][f'silhouette {source} {view}']:.2f}, "
                f"{100 * row['values'][f'neighbours {source} {view}']:.1f}"
                for source in HEADS
            ]
            lines.append((str(row["fold"]), view, *cells))
    return Table(
        "Representations of the test utterances",
        ("fold", "view", *HEADS.values()),
        lines or [(NOT_RUN,) * (2 + len(HEADS))],
        f"Silhouette of the emotions, and UAR in % of the {NEIGHBOURS} nearest labelled training utterances.",
    )


EXPERIMENT = Experiment(
    name="embeddings",
    description=__doc__,
    flags=Embeddings,
    plan=plan,
    measure=measure,
    exhibits=(Exhibit("Figures 5 and 6", select, table, saved_figure=PICTURE),),
)

if __name__ == "__main__":
    main(EXPERIMENT)
