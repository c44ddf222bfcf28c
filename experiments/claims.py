"""Verdicts on the paper's claims, in words; each is that of a test."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from experiments import pretraining_data, sparse_labels, temperature
from experiments.experiment import Choice
from pcl_jax.runs.summary import (
    ALPHA,
    CONDITIONAL,
    Amount,
    Gain,
    amounts,
    gains,
    group_rows,
    method_of,
    pairs,
    views,
)
from pcl_jax.runs.tables import NOT_RUN, Table

if TYPE_CHECKING:
    from pcl_jax.runs.records import Row

HANDCRAFTED = ("mel", "egemaps")
"""Views without a speech model."""
SPARSE = (Amount(0, 0.02), Amount(0, 0.05))
"""Amounts of labels at which the paper sees its gains."""
BEST = 0.5
"""Temperature that the paper chooses."""

Verdict = tuple[str, str]
"""Numbers in words, and the verdict."""


def findings(rows: "Sequence[Row]") -> list[str]:
    """Return the sentences that a reader should know first.

    Args:
        rows: runs of one pre-training per fold, and those without pre-training.
    """
    if not rows:
        return ["Nothing has been fine-tuned yet."]
    texts = _probes_that_win(rows)
    if found := list(gains(pairs(rows, "tuned", "supervised")).values()):
        means, sure = [gain.mean for gain in found], [gain for gain in found if gain.significant]
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


def _probes_that_win(rows: "Sequence[Row]") -> list[str]:
    """Compare probes on plain features with tuned encoders at the fewest labels, by a test of pairs."""
    least = amounts(rows)[0]
    all_pairs = pairs(rows, "probe-raw", "tuned")
    compared = {key: pair for key, pair in all_pairs.items() if key[1] == least and all(pair)}
    means = {
        key: [float(np.mean(list(values.values()))) for values in pair] for key, pair in compared.items()
    }
    gained = gains(compared)
    beaten, above = [], []
    for key, (probe, tuned) in means.items():
        if probe > tuned:
            sure = key in gained and gained[key].significant
            (beaten if sure else above).append(f"{key[0]} ({probe:.1f} against {tuned:.1f})")
    texts = []
    if beaten:
        texts.append(
            f"At {least} of the labels a logistic regression on the plain features beats fine-tuning after "
            f"Pairwise-CL (Wilcoxon, Holm): {', '.join(beaten)} UAR in %."
        )
    if above:
        texts.append(
            f"At {least} of the labels a logistic regression on the plain features has a higher mean than "
            f"fine-tuning after Pairwise-CL, a difference that no test shows: {', '.join(above)} UAR in %."
        )
    return texts


def verdict(found: Sequence[Gain]) -> str:
    """Return the verdict on a claim that these gains are positive."""
    up = sum(gain.significant and gain.mean > 0 for gain in found)
    down = sum(gain.significant and gain.mean < 0 for gain in found)
    if not found:
        return NOT_RUN
    if down:
        return "contradicted" if not up else "mixed"
    if not up:
        return "not shown"
    return "held" if up == len(found) else "held in part"


def tally(found: Sequence[Gain]) -> str:
    """Return gains in one line."""
    if not found:
        return NOT_RUN
    means = [gain.mean for gain in found]
    sure = sum(gain.significant and gain.mean > 0 for gain in found)
    return (
        f"{np.mean(means):+.1f} on average; above in {sum(mean > 0 for mean in means)} of {len(found)}, "
        f"significantly in {sure}"
    )


def gain_text(gain: Gain) -> str:
    """Return a difference with its interval and its test.

    >>> gain_text(Gain(10, 1.25, 0.5, 0.8, 1.7, 0.01, 0.03, 0.9))
    '+1.2 ± 0.5, p = 0.030, n = 10'
    """
    return f"{gain.mean:+.1f} ± {gain.half_width:.1f}, p = {gain.wilcoxon:.3f}, n = {gain.repeats}"


def claims(rows: "Sequence[Row]", choice: Choice) -> Table:
    """Return five claims of the paper, each with our numbers and a verdict.

    Args:
        rows: all rows of a section of the report.
        choice: pre-training that the single items are about.
    """
    main_rows = sparse_labels.select(rows, choice)
    frozen = list(gains(pairs(main_rows, "tuned", "frozen")).values())
    subsets = pretraining_data.select(rows, choice)
    by_subset = pairs(subsets, "target", "out_of_distribution", pretraining_data.pretraining_name)
    target = list(gains(by_subset).values())
    lines = [
        ("(i) pre-training lifts UAR at 2 and 5 % of the labels", *lifts(main_rows)),
        ("(ii) most for handcrafted features", *helps_handcrafted_most(main_rows)),
        ("(iii) the temperature 0.5 is best", *best_temperature(temperature.select(rows, choice))),
        ("(iv) tuned encoders beat frozen ones", tally(frozen), verdict(frozen)),
        ("(v) pre-training on target emotions helps a little", tally(target), verdict(target)),
    ]
    note = (
        "Verdicts are by Wilcoxon's test of pairs at 0.05, after Holm over all cells of the comparison; "
        "pairs are repeats, in (iii) folds and repeats, each the mean over views. Without a significant "
        f"difference a claim is not shown; where a run that it names is missing, it is not run. {CONDITIONAL}"
    )
    return Table("The paper's claims", ("claim", "here", "verdict"), lines, note)


def lifts(rows: "Sequence[Row]") -> Verdict:
    """Return the verdict on gains at 2 and 5 % of the labels: at both, for every view."""
    compared = pairs(rows, "tuned", "supervised")
    named = {key: compared.get(key, ({}, {})) for key in product(views(rows), SPARSE)}
    gained = gains(compared)
    if not named or any(key not in gained for key in named):
        return NOT_RUN, NOT_RUN
    found = [gained[key] for key in named]
    return tally(found), verdict(found)


def helps_handcrafted_most(rows: "Sequence[Row]") -> Verdict:
    """Return the verdict on larger gains for handcrafted views, by a test of pairs over repeats."""
    name_of = {row["title"]: row["view"] for row in rows}
    compared = pairs(rows, "tuned", "supervised")
    by_kind: dict[bool, list[Mapping[int, float]]] = {True: [], False: []}
    for key in product(views(rows), SPARSE):
        tuned, supervised = compared.get(key, ({}, {}))
        differences = {r: tuned[r] - supervised[r] for r in tuned.keys() & supervised.keys()}
        by_kind[name_of[key[0]] in HANDCRAFTED].append(differences)
    if not by_kind[True] or not by_kind[False]:
        return NOT_RUN, NOT_RUN
    repeats = set.intersection(*(set(found) for kind in by_kind.values() for found in kind))
    means = [
        {r: float(np.mean([found[r] for found in by_kind[handcrafted]])) for r in repeats}
        for handcrafted in (True, False)
    ]
    gained = gains({"": (means[0], means[1])})
    if not gained:
        return NOT_RUN, NOT_RUN
    hand, speech = (np.mean(list(values.values())) for values in means)
    text = f"{hand:+.1f} handcrafted, {speech:+.1f} speech model; difference {gain_text(gained[''])}"
    return text, verdict(list(gained.values()))


def best_temperature(rows: "Sequence[Row]") -> Verdict:
    """Return the verdict on the temperature with the best validation UAR, tuned on all labels.

    It is held if 0.5 is above each other temperature of the paper, and contradicted if one is above 0.5, by
    tests of pairs over folds and repeats.
    """
    tuned = [row for row in rows if method_of(row) == "tuned"]
    by_temperature = group_rows(tuned, lambda row: row["temperature"])
    if any(tau not in by_temperature for tau in temperature.TEMPERATURES):
        return NOT_RUN, NOT_RUN
    means = {tau: _by_fold_and_repeat(cell) for tau, cell in by_temperature.items()}
    rivals = [tau for tau in temperature.TEMPERATURES if tau != BEST]
    gained = gains({tau: (means[BEST], means[tau]) for tau in rivals})
    if len(gained) < len(rivals):
        return NOT_RUN, NOT_RUN
    texts = [f"against {tau:g}: {gain_text(gain)}" for tau, gain in gained.items()]
    found = list(gained.values())
    if any(gain.significant and gain.mean < 0 for gain in found):
        decided = "contradicted"
    else:
        decided = "held" if all(gain.significant for gain in found) else "not shown"
    return f"validation UAR of {BEST:g} {'; '.join(texts)}", decided


def _by_fold_and_repeat(rows: "Sequence[Row]") -> dict[tuple[int, int], float]:
    """Return validation UAR in % of each fold and repeat that all views have: the mean over views."""
    titles = set(views(rows))
    cells = group_rows(rows, lambda row: (row["fold"], row["repeat"]))
    return {
        (fold, repeat): 100 * float(np.mean([row["validation_uar"] for row in cell]))
        for (fold, repeat), cell in sorted(cells.items())
        if {row["title"] for row in cell} == titles
    }
