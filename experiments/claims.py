"""What the records say of the paper's claims, in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments import temperature
from pcl_jax.runs.summary import ALPHA, Gain, amounts, gains, pairs
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row

HANDCRAFTED = ("mel", "egemaps")
SPARSE = ("2%", "5%")
"""Where the paper sees its gains."""


def findings(rows: "Sequence[Row]") -> list[str]:
    """What a reader should know first."""
    if not rows:
        return ["Nothing has been fine-tuned yet."]
    texts, least = [], amounts(rows)[0]
    beaten = []
    for (view, amount), (tuned, probe) in pairs(rows, "tuned", "probe-raw").items():
        if amount == least and tuned and probe:
            ours, theirs = np.mean(list(tuned.values())), np.mean(list(probe.values()))
            if theirs > ours:
                beaten.append(f"{view} ({theirs:.1f} against {ours:.1f})")
    if beaten:
        texts.append(
            f"At {least} of the labels a logistic regression on the plain features beats fine-tuning after "
            f"Pairwise-CL: {', '.join(beaten)} UAR in %."
        )
    if found := list(gains(pairs(rows, "tuned", "supervised")).values()):
        means, sure = [gain.mean for gain in found], [gain for gain in found if gain.wilcoxon < ALPHA]
        texts.append(
            "Fine-tuned after pre-training against supervised from scratch: above in "
            f"{sum(mean > 0 for mean in means)} of {len(found)} cells, by {min(means):+.1f} to "
            f"{max(means):+.1f} points; significant (Wilcoxon, Holm) in {len(sure)}, by the paper's "
            f"uncorrected test in {sum(gain.mark == '*' for gain in found)}."
        )
        repeats = max(gain.repeats for gain in found)  # of the cell that could say most
        least_p = min(1.0, 2 ** (1 - repeats) * len(found))
        if least_p >= ALPHA:
            texts.append(
                f"{repeats} repeats are too few to find anything in {len(found)} cells: the least corrected "
                f"p that Wilcoxon's test can give is {least_p:.2g}."
            )
        elif not sure:
            texts.append("By these runs pre-training has no effect that can be told from chance.")
    return texts


def verdict(found: Sequence[Gain]) -> str:
    """Of a claim that these gains are positive."""
    up = sum(gain.wilcoxon < ALPHA and gain.mean > 0 for gain in found)
    down = sum(gain.wilcoxon < ALPHA and gain.mean < 0 for gain in found)
    if not found:
        return NOT_RUN
    if down:
        return "contradicted" if not up else "mixed"
    if not up:
        return "not shown"
    return "held" if up == len(found) else "held in part"


def tally(found: Sequence[Gain]) -> str:
    """Gains in one line."""
    if not found:
        return NOT_RUN
    means = [gain.mean for gain in found]
    sure = sum(gain.wilcoxon < ALPHA and gain.mean > 0 for gain in found)
    return (
        f"{np.mean(means):+.1f} on average; above in {sum(mean > 0 for mean in means)} of {len(found)}, "
        f"surely in {sure}"
    )


def claims(rows: "Sequence[Row]", full: "Sequence[Row]", subsets: "Sequence[Row]") -> Table:
    """Five claims of the paper, each with our numbers and a verdict.

    Args:
        rows: of one pre-training per fold, and what stands beside it.
        full: all labels, all temperatures.
        subsets: tuned after pre-training on everything, on target emotions, on others.
    """
    kind = {row["title"]: row["view"] for row in rows}
    gained = gains(pairs(rows, "tuned", "supervised"))
    sparse = {key: gain for key, gain in gained.items() if key[1] in SPARSE}
    hand = [gain.mean for (title, _), gain in sparse.items() if kind[title] in HANDCRAFTED]
    speech = [gain.mean for (title, _), gain in sparse.items() if kind[title] not in HANDCRAFTED]
    largest = where = NOT_RUN
    if hand and speech:
        where = f"{np.mean(hand):+.1f} handcrafted, {np.mean(speech):+.1f} speech model"
        largest = "held" if np.mean(hand) > np.mean(speech) else "not held"

    best = chosen = NOT_RUN
    ranked = temperature.table(full).rows
    ranks = {line[1]: line[-2] for line in ranked if line[2] == "tuned" and line[-2] != NOT_RUN}
    if len(ranks) > 1:
        first = min(ranks, key=lambda tau: float(ranks[tau]))
        best = "average ranks on validation: " + ", ".join(f"{tau}: {rank}" for tau, rank in ranks.items())
        chosen = "held" if first == "0.5" else f"not held: {first}"

    frozen = list(gains(pairs(rows, "tuned", "frozen")).values())
    by_subset = pairs(subsets, "target", "out_of_distribution", lambda row: row["pretrained_on"])
    target, few = list(gains(by_subset).values()), list(sparse.values())
    lines = [
        ("(i) pre-training lifts UAR at 2 and 5 % of the labels", tally(few), verdict(few)),
        ("(ii) most for handcrafted features", where, largest),
        ("(iii) the temperature 0.5 is best", best, chosen),
        ("(iv) tuned encoders beat frozen ones", tally(frozen), verdict(frozen)),
        ("(v) pre-training on target emotions helps a little", tally(target), verdict(target)),
    ]
    note = "(i), (iv), (v): by Wilcoxon's test of pairs at 0.05, after Holm over all cells of the comparison."
    return Table("The paper's claims", ("claim", "here", "verdict"), lines, note)
