"""Figure 3 and what stands beside it as pictures; pictures as files and in a page."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcl_jax.evaluation.significance import t_interval
from pcl_jax.runs.checkpoint import write_atomically
from pcl_jax.runs.summary import METHODS, PROBES, amounts, gains, labels, method_of, pairs, per_repeat, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pcl_jax.runs.records import Row

SHOWN = {"supervised": ("C1", "-", "s"), "tuned": ("C0", "-", "o"), "probe-raw": ("0.5", ":", None)}
"""Colour, line and marker of what is drawn."""


def curves(rows: "Sequence[Row]") -> "Figure":
    """Figure 3: a panel per view, UAR over the share of labels, with 95 % bands and marks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles, folds = views(rows), {row["fold"] for row in rows}
    gained = gains(pairs(rows, "tuned", "supervised"))
    figure, axes = pyplot.subplots(
        1, len(titles), figsize=(3.6 * len(titles), 3.2), squeeze=False, sharey=True
    )
    for at, view in zip(axes[0], titles, strict=True):
        of_view = [row for row in rows if row["title"] == view]
        known = amounts(of_view)
        top = np.full(len(known), -np.inf)
        for name, (colour, line, marker) in SHOWN.items():
            means, halves = np.full((2, len(known)), np.nan)
            for i, amount in enumerate(known):
                cell = [row for row in of_view if (labels(row), method_of(row)) == (amount, name)]
                values = list(per_repeat(cell, folds).values())
                if values:
                    means[i], halves[i] = t_interval(values)
            if np.isnan(means).all():
                continue
            x = np.arange(len(known))
            heading = (METHODS | PROBES)[name]
            at.plot(x, means, color=colour, linestyle=line, marker=marker, markersize=4, label=heading)
            if name != "probe-raw":
                halves = np.nan_to_num(halves)
                low, high = np.maximum(means - halves, 0), np.minimum(means + halves, 100)
                at.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                top = np.fmax(top, high)
        for i, amount in enumerate(known):
            if gain := gained.get((view, amount)):
                at.annotate(
                    gain.mark, (i, top[i]), (0, 3), textcoords="offset points", ha="center", fontsize=8
                )
        at.set_xticks(range(len(known)), known)
        at.set(title=view, xlabel="labels")
        at.margins(y=0.12)
        at.grid(alpha=0.3)
    axes[0][0].set_ylabel("UAR in %")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def over_unlabelled(rows: "Sequence[Row]", counts: Mapping[str, float]) -> "Figure":
    """A panel per view: UAR over the number of utterances pre-trained on, a line per share of labels.

    Args:
        counts: what was pre-trained on -> how many utterances; "none" is supervised.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles, folds, x = views(rows), {row["fold"] for row in rows}, np.array(list(counts.values()))
    figure, axes = pyplot.subplots(
        1, len(titles), figsize=(3.6 * len(titles), 3.2), squeeze=False, sharey=True
    )
    for at, view in zip(axes[0], titles, strict=True):
        for i, amount in enumerate(amounts(rows)):
            cell = [row for row in rows if (row["title"], labels(row)) == (view, amount)]
            means, halves = np.full((2, len(counts)), np.nan)
            for j, name in enumerate(counts):
                some = [row for row in cell if (row["pretrained_on"] or "none") == name]
                if values := list(per_repeat(some, folds).values()):
                    means[j], halves[j] = t_interval(values)
            look = {"color": f"C{i}", "marker": "o", "markersize": 4, "capsize": 2}
            at.errorbar(x, means, np.nan_to_num(halves), label=amount, **look)
        at.set(title=view, xlabel="utterances pre-trained on")
        at.grid(alpha=0.3)
    axes[0][0].set_ylabel("UAR in %")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=max(len(names), 1), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def save(figure: "Figure", path: Path) -> str:
    """As SVG and PNG; the SVG to stand in a page."""
    import matplotlib
    from matplotlib import pyplot

    texts = {}
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same figure, the same file
        for form in ("svg", "png"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
            texts[form] = buffer.getvalue()
            write_atomically(path.with_name(f"{path.name}.{form}"), buffer.getvalue())
    pyplot.close(figure)
    return inline(texts["svg"].decode())


def inline(svg: str) -> str:
    """What of an SVG file may stand in a page."""
    return svg[svg.index("<svg") :]
