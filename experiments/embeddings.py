"""Figures 5 and 6: the representations of a fold's test utterances, in two dimensions.

    python -m experiments.embeddings --corpus emodb --root DIR

Paper (IEMOCAP, last fold): pre-trained representations group by emotion before any label is seen, less so
those of fresh encoders, least the spectrogram's. A picture by t-SNE invites stories, so beside each panel
stand two numbers of the representation itself: the silhouette of the emotions (-1 to 1; 0 is no structure),
and the UAR of the ten nearest labelled training utterances. Both after scaling by the training utterances.

Trains what is missing (the fold's pre-training, each view from scratch on all labels), writes the figure
below the runs folder as SVG and PNG, and prints the numbers as a Markdown table. Colour is the emotion,
marker the speaker.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import tyro

from experiments.figures import save
from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.records import Row
    from pcl_jax.runs.study import Study

Of = Literal["pretrained", "supervised", "random"]
HEADS = {"pretrained": "pre-trained", "supervised": "supervised", "random": "random"}
NEIGHBOURS = 10


@dataclass(frozen=True)
class Embeddings(flags.Experiment):
    """t-SNE of representations, with numbers."""

    folds: tuple[flags.Fold, ...] = (5,)
    """Test sessions, a figure each; the paper shows the last."""


class Panel(NamedTuple):
    """What is drawn of one encoder."""

    points: np.ndarray
    """[n, 2], by t-SNE."""
    silhouette: float
    neighbours: float
    """UAR of the nearest neighbours' majority."""


def main(command: Embeddings) -> None:
    from pcl_jax.commands import terminal

    study = cli.open_study(command, command.views, "embeddings")
    if not command.table_only:
        cli.carry_out(list(plan(study, command)), cli.share(command.shard))
    rows = [row for fold in command.folds for row in measure(study, fold, dry=command.table_only)]
    terminal.out.print(table(rows).markdown(), markup=False, highlight=False)
    for folder in dict.fromkeys(row["run"] for row in rows):
        terminal.out.print(f"figure: {study.runs / folder / 'figure.svg'}", highlight=False)


def plan(study: "Study", command: Embeddings) -> "Iterator[Step]":
    """The runs whose encoders are drawn."""
    from pcl_jax.runs.plan import Step
    from pcl_jax.runs.study import Pretrain, Task

    for fold in command.folds:
        yield Step(study, Pretrain(fold))
        for view in study.views:
            yield Step(study, Task(fold, view))


def measure(study: "Study", fold: int, *, dry: bool = False) -> "Iterator[Row]":
    """The record of a fold, drawn where there is none (not if `dry`)."""
    from pcl_jax.runs.runner import representations

    began, run = time.monotonic(), study.pretraining_folder(fold)
    folder = study.measured("embeddings", fold, study.views, run)
    if row := study.done().get(study.relative(folder)):
        yield row
        return
    if dry:
        return
    data, classes = study.data(fold), len(study.corpus.classes)
    train, test = data.labelled(data.train), data.labelled(data.test)
    panels = {}
    for kind in get_args(Of):
        for view in study.views:
            x = representations(study, fold, view, kind, run)
            x = (x - x[data.train].mean(axis=0)) / np.maximum(x[data.train].std(axis=0), 1e-6)
            panels[kind, view] = panel(
                x[train], data.labels[train], x[test], data.labels[test], classes, study.seed
            )
    speakers = [u.speaker for u in study.folds[fold].test if study.corpus.label(u) is not None]
    titles = {view: study.title([view]) for view in study.views}
    draw(folder, panels, titles, data.labels[test], speakers, study.corpus.classes)
    values = {
        f"{name} {kind} {titles[view]}": getattr(found, name)
        for (kind, view), found in panels.items()
        for name in ("silhouette", "neighbours")
    }
    yield study.record(
        folder,
        method="embeddings",
        fold=fold,
        view="+".join(study.views),
        title=study.title(study.views),
        views=tuple(study.views),
        temperature=study.settings.pretraining.temperature,
        pretrained_on=study.pretrained_on,
        values=values,
        seconds=time.monotonic() - began,
    )


def panel(
    train: np.ndarray, known: np.ndarray, test: np.ndarray, truth: np.ndarray, classes: int, seed: int
) -> Panel:
    """Points and numbers of the test representations `[n, d]`; labels are class numbers."""
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
    panels: Mapping[tuple[str, str], Panel],
    titles: Mapping[str, str],
    labels: np.ndarray,
    speakers: Sequence[str],
    classes: Sequence[str],
) -> None:
    """`figure.svg` and `figure.png`: a row per kind of training, a column per view."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(kind for kind, _ in panels))
    figure, axes = pyplot.subplots(
        len(kinds), len(titles), figsize=(3.1 * len(titles), 3.1 * len(kinds)), squeeze=False
    )
    colours, markers = pyplot.get_cmap("tab10").colors, "osD^vP*Xdph<>"  # pyright: ignore[reportAttributeAccessIssue]
    known = sorted(set(speakers))
    for i, kind in enumerate(kinds):
        for j, (view, title) in enumerate(titles.items()):
            found, at = panels[kind, view], axes[i][j]
            for c, name in enumerate(classes):
                for s, speaker in enumerate(known):
                    here = (labels == c) & (np.asarray(speakers) == speaker)
                    at.scatter(
                        *found.points[here].T,
                        s=9, color=colours[c % 10], marker=markers[s % len(markers)], linewidths=0,
                        label=name if s == 0 else None,
                    )  # fmt: skip
            at.set(xticks=[], yticks=[])
            at.set_title(f"{title}, {HEADS[kind]}", fontsize=8)
            at.set_xlabel(
                f"silhouette {found.silhouette:.2f}, neighbours {100 * found.neighbours:.0f} % UAR",
                fontsize=7,
            )
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(classes), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    save(figure, folder / "figure")


def table(rows: "Sequence[Row]") -> Table:
    """One line per fold and view."""
    lines = []
    for row in rows:
        for view in dict.fromkeys(name.split(" ", 2)[2] for name in row["values"]):
            cells = [
                f"{row['values'][f'silhouette {kind} {view}']:.2f}, "
                f"{100 * row['values'][f'neighbours {kind} {view}']:.1f}"
                for kind in HEADS
            ]
            lines.append((str(row["fold"]), view, *cells))
    return Table(
        "Representations of the test utterances",
        ("fold", "view", *HEADS.values()),
        lines or [(NOT_RUN,) * (2 + len(HEADS))],
        f"Silhouette of the emotions, and UAR in % of the {NEIGHBOURS} nearest labelled training utterances.",
    )


if __name__ == "__main__":
    command = tyro.cli(Embeddings, default=flags.default(Embeddings, sys.argv[1:]), description=__doc__)
    cli.guarded(lambda: main(command), debug=command.debug)
