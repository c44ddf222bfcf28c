"""Draw the README's figure from the tables in RESULTS.md: `python docs/figures/label_efficiency.py`."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 10})
from matplotlib import pyplot  # noqa: E402 - the backend comes first

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "RESULTS.md"
CORPORA = ("EMO-DB", "RAVDESS")
VIEWS = {"mel": "mel spectrogram", "egemaps": "eGeMAPS"}
METHODS = {"supervised": ("#b3541e", "s"), "Pairwise-CL, tuned": ("#1f5fa8", "o")}


def cells(corpus: str) -> list[dict[str, str]]:
    """Return the rows of the table "Label efficiency, two views" of a corpus, by heading of the column."""
    section = RESULTS.read_text(encoding="utf-8").split(f"## Label efficiency, two views, {corpus}\n")[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def main() -> None:
    """Write label-efficiency.svg beside this file."""
    figure, axes = pyplot.subplots(1, 4, figsize=(10, 2.9), sharey=True, layout="constrained")
    panels = [(corpus, view) for corpus in CORPORA for view in VIEWS]
    for axis, (corpus, view) in zip(axes, panels, strict=True):
        rows = [row for row in cells(corpus) if row["view"] == view]
        shares = [row["labels"].replace("%", " %") for row in rows]
        for shift, (method, (colour, marker)) in zip((-0.06, 0.06), METHODS.items(), strict=True):
            means, halves = zip(*(map(float, row[method].split(" ± ")) for row in rows), strict=True)
            x = [position + shift for position in range(len(rows))]
            axis.errorbar(
                x, means, halves, color=colour, marker=marker, markersize=5, capsize=3, label=method
            )
        for position, row in enumerate(rows):
            if float(row["p (W, Holm)"]) < 0.05:
                top = max(sum(map(float, row[method].split(" ± "))) for method in METHODS)
                axis.annotate("*", (position, top), (0, 1), textcoords="offset points", ha="center", size=13)
        axis.set_title(f"{corpus}, {VIEWS[view]}", fontsize=10)
        axis.set_xticks(range(len(rows)), shares)
        axis.set_xlabel("labels used")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("UAR in %, chance 25")
    axes[0].legend(frameon=False, loc="upper left", fontsize=9)
    axes[0].set_ylim(top=78)
    figure.savefig(HERE / "label-efficiency.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
