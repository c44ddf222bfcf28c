"""Pictures of the report: curves, heat maps, and pictures as files and in a page."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pcl_jax.evaluation.significance import t_interval
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.summary import (
    METHODS,
    PROBES,
    Amount,
    amount,
    amounts,
    gains,
    group_rows,
    method_of,
    pairs,
    scores_of,
    views,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcl_jax.runs.records import Row


class Style(NamedTuple):
    """Look of a line; lines without a marker have no band of their interval."""

    heading: str
    colour: str
    line: str = "-"
    marker: str | None = "o"


STYLES = {
    "supervised": Style(METHODS["supervised"], "C1", marker="s"),
    "tuned": Style(METHODS["tuned"], "C0"),
    "probe-raw": Style(PROBES["probe-raw"], "0.5", ":", None),
}
"""Method -> its look in Figure 3."""
SUBSET_STYLES = {
    "target": Style("pre-trained on target emotions", "C2"),
    "out_of_distribution": Style("on other emotions", "C3", marker="s"),
    "all": Style("on all utterances", "0.5", ":", None),
}
"""Utterances pre-trained on -> their look in Figure 4: the paper's colours."""


def pyplot() -> Any:
    """Return matplotlib's pyplot for files, where a dollar sign is a dollar sign and no formula."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False
    from matplotlib import pyplot

    return pyplot


def _panels(titles: Sequence[str], width: float = 3.6) -> "tuple[Figure, Iterable[tuple[Any, str]]]":
    """Return a figure with a panel per view, and the panels with their titles."""
    figure, axes = pyplot().subplots(
        1, len(titles), figsize=(width * len(titles), 3.2), squeeze=False, sharey=True
    )
    return figure, zip(axes[0], titles, strict=True)


def _finish(figure: "Figure") -> "Figure":
    """Add the axis title and the legend that all panels share."""
    first = figure.axes[0]
    first.set_ylabel("UAR in %")
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=max(len(names), 1), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def _means(cells: Iterable[Sequence["Row"]]) -> Float[np.ndarray, "2 n"]:
    """Return mean UAR in % and half-width of the 95 % t-interval of each cell, NaN where there is none."""
    found = [list(scores_of(cell).by_repeat.values()) for cell in cells]
    return np.array([tuple(t_interval(values)) if values else (np.nan, np.nan) for values in found]).T


def curves(rows: "Sequence[Row]") -> "Figure":
    """Draw Figure 3: a panel per view, UAR over the amount of labels, with 95 % bands and marks."""
    return _over_labels(rows, STYLES, method_of, "tuned", "supervised")


def subset_curves(rows: "Sequence[Row]") -> "Figure":
    """Draw Figure 4: tuned encoders after pre-training on target emotions and on others."""
    return _over_labels(
        rows, SUBSET_STYLES, lambda row: row["pretrained_on"], "target", "out_of_distribution"
    )


def _over_labels(
    rows: "Sequence[Row]",
    styles: Mapping[str, Style],
    column: "Callable[[Row], str]",
    first: str,
    second: str,
) -> "Figure":
    """Draw UAR over the amount of labels, a line per style, and mark the difference of two of them."""
    gained = gains(pairs(rows, first, second, column))
    figure, panels = _panels(views(rows))
    for axis, view in panels:
        cells = group_rows(
            (row for row in rows if row["title"] == view), lambda row: (amount(row), column(row))
        )
        known = sorted({labelled for labelled, _ in cells})
        x, top = np.arange(len(known)), np.full(len(known), -np.inf)
        for name, style in styles.items():
            means, halves = _means([cells.get((labelled, name), []) for labelled in known])
            if np.isnan(means).all():
                continue
            look = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
            axis.plot(x, means, markersize=4, label=style.heading, **look)
            if style.marker:
                halves = np.nan_to_num(halves)
                low, high = np.maximum(means - halves, 0), np.minimum(means + halves, 100)
                axis.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
                top = np.fmax(top, high)
        for i, labelled in enumerate(known):
            if gain := gained.get((view, labelled)):
                axis.annotate(
                    gain.mark, (i, top[i]), (0, 3), textcoords="offset points", ha="center", fontsize=8
                )
        axis.set_xticks(x, map(str, known))
        axis.set(title=view, xlabel="labels")
        axis.margins(y=0.12)
        axis.grid(alpha=0.3)
    return _finish(figure)


def over_unlabelled(rows: "Sequence[Row]", counts: Mapping[str, float]) -> "Figure":
    """Draw a panel per view: UAR over the number of utterances pre-trained on, a line per amount of labels.

    Args:
        rows: supervised and tuned runs.
        counts: name of what was pre-trained on -> number of utterances; "none" is supervised.
    """
    rows = [row for row in rows if method_of(row) in ("supervised", "tuned")]
    x = np.array(list(counts.values()))
    figure, panels = _panels(views(rows))
    for axis, view in panels:
        for i, labelled in enumerate(amounts(rows)):
            cell = [row for row in rows if (row["title"], amount(row)) == (view, labelled)]
            by_name = group_rows(cell, lambda row: row["pretrained_on"] or "none")
            means, halves = _means([by_name.get(name, []) for name in counts])
            style = {"color": f"C{i % 10}", "marker": "o", "markersize": 4, "capsize": 2}
            axis.errorbar(x, means, np.nan_to_num(halves), label=str(labelled), **style)
        axis.set(title=view, xlabel="utterances pre-trained on")
        axis.grid(alpha=0.3)
    return _finish(figure)


def methods_over_labels(
    cells: Mapping[tuple[str, Amount], tuple[float, ...]], banded: Iterable[str]
) -> "Figure":
    """Draw a line per method over the amount of labels: a panel for shares, one for numbers of each class.

    Args:
        cells: (method, labels) -> UAR in %, lower and upper end of its interval.
        banded: methods whose intervals are drawn.
    """
    methods = list(dict.fromkeys(method for method, _ in cells))
    kinds = {bool(labels.per_class) for _, labels in cells}
    titles = [title for per_class, title in ((False, "share of the labels"), (True, "labels of each class"))
              if per_class in kinds]  # fmt: skip
    figure, panels = _panels(titles, width=5.0)
    for (axis, title), per_class in zip(panels, sorted(kinds), strict=True):
        known = sorted({labels for _, labels in cells if bool(labels.per_class) == per_class})
        for number, method in enumerate(methods):
            points = [
                (x, *cells[method, labels]) for x, labels in enumerate(known) if (method, labels) in cells
            ]
            if not points:
                continue
            x, value, low, high = np.array(points).T
            dotted = ":" in method
            look = {"color": f"C{number % 10}", "linestyle": ":" if dotted else "-"}
            axis.plot(x, value, marker=None if dotted else "o", markersize=4, label=method, **look)
            if method in banded:
                axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        axis.set_xticks(range(len(known)), [str(labels).removesuffix(" a class") for labels in known])
        axis.set(xlabel=title)
        axis.grid(alpha=0.3)
    return _finish(figure)


def heat_maps(shares: "Mapping[str, Float[np.ndarray, 'c c']]", classes: Sequence[str]) -> "Figure":
    """Draw a confusion matrix per view, with its numbers.

    Args:
        shares: view -> share in % of the utterances of each emotion (rows) that was predicted as each
            (columns).
        classes: names of the emotions.
    """
    size = max(3.0, 0.6 * len(classes) + 1.2)
    figure, axes = pyplot().subplots(
        1, len(shares), figsize=(size * len(shares), size), squeeze=False, sharey=True
    )
    for axis, (view, values) in zip(axes[0], shares.items(), strict=True):
        axis.imshow(values, cmap="Blues", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if value > 55 else "black"
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9)
        axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        axis.set(title=view, xlabel="prediction")
    axes[0][0].set_ylabel("emotion")
    figure.tight_layout()
    return figure


def save(figure: "Figure", path: Path) -> str:
    """Write a figure as SVG and PNG; return the SVG that can stand in a page."""
    import matplotlib

    texts = {}
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same figure, the same file
        for form in ("svg", "png"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
            texts[form] = buffer.getvalue()
            write_atomically(path.with_name(f"{path.name}.{form}"), buffer.getvalue())
    pyplot().close(figure)
    return inline(texts["svg"].decode())


def inline(svg: str) -> str:
    """Return the part of an SVG file that can stand in a page."""
    return svg[svg.index("<svg") :]
