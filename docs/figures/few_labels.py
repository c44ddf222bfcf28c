"""Draw the README's figure from the tables in RESULTS.md: `python docs/figures/few_labels.py`."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 10})
from matplotlib import pyplot  # noqa: E402 - the backend comes first

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "RESULTS.md"
CORPORA = ("EMO-DB", "RAVDESS")
METHODS = {
    "probe": ("best single view", "#666666", "s"),
    "co-training": ("co-training", "#b3541e", "^"),
    "recipe": ("recipe", "#1f5fa8", "o"),
}


def cells(corpus: str) -> list[dict[str, str]]:
    """Return the rows of the table "Few labels" of a corpus, those of labels per class, by heading."""
    section = RESULTS.read_text(encoding="utf-8").split(f"### Few labels, {corpus}\n")[1]
    lines = [line for line in section.split("\n### ")[0].splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [row for values in rows if "class" in (row := dict(zip(head, values, strict=True)))["labels"]]


def main() -> None:
    """Write few-labels.svg beside this file."""
    figure, axes = pyplot.subplots(1, 2, figsize=(7.5, 2.9), sharey=True, layout="constrained")
    for axis, corpus in zip(axes, CORPORA, strict=True):
        rows = cells(corpus)
        for shift, (method, (label, colour, marker)) in zip((-0.1, 0, 0.1), METHODS.items(), strict=True):
            means, halves = zip(*(map(float, row[method].split(" ± ")) for row in rows), strict=True)
            x = [position + shift for position in range(len(rows))]
            axis.errorbar(x, means, halves, color=colour, marker=marker, markersize=5, capsize=3, label=label)
        axis.set_title(corpus, fontsize=10)
        axis.set_xticks(range(len(rows)), [row["labels"].split()[0] for row in rows])
        axis.set_xlabel("labels of each class")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("UAR in %, chance 25")
    axes[1].legend(frameon=False, loc="upper left", fontsize=9)
    figure.savefig(HERE / "few-labels.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
