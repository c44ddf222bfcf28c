"""The sentence that reads a table of one fold."""

import numpy as np
import pytest

from pcl_jax.evaluation.significance import paired_uar
from pcl_jax.runs.plan import label_efficiency
from pcl_jax.runs.reading import Answers, comparisons, read_answers, sentence
from pcl_jax.runs.summary import Amount
from tests.runs.conftest import SETTINGS

RNG = np.random.default_rng(3)
TRUTH = np.repeat(np.arange(4), [40, 20, 20, 20])


def answers(method: str, share: float, *, repeats: int = 2, fraction: float = 0.05, rng=RNG) -> list[Answers]:
    """Return runs that classify each utterance rightly with this probability."""
    names = {
        "supervised": ("supervised", False),
        "frozen": ("pairwise-cl", True),
        "tuned": ("pairwise-cl", False),
    }
    name, frozen = names[method]
    return [
        Answers(
            {
                "run": f"{method} {fraction} {repeat}", "title": "mel", "method": name, "frozen": frozen,
                "fraction": fraction, "per_class": None, "repeat": repeat,
                "n_labelled": round(200 * fraction),
            },
            rng.random(len(TRUTH)) < share,
        )
        for repeat in range(repeats)
    ]  # fmt: skip


def test_a_large_gain_and_a_large_loss_are_named_and_a_small_difference_is_chance():
    text = sentence(answers("supervised", 0.5) + answers("frozen", 0.95) + answers("tuned", 0.5), TRUTH)
    assert text.startswith("With 10 labels, differences from supervised training under ")
    assert "frozen mel gains " in text
    assert "; all others are chance." in text
    assert "tuned mel" not in text
    assert "100 labelled test utterances" in text
    text = sentence(answers("supervised", 0.9) + answers("tuned", 0.3), TRUTH)
    assert "tuned mel loses " in text
    assert "others" not in text
    assert "here: all are." in sentence(answers("supervised", 0.5) + answers("tuned", 0.5), TRUTH)


def test_each_number_of_labels_has_its_sentence_and_runs_without_a_partner_have_none():
    few = answers("supervised", 0.4) + answers("tuned", 0.6)
    many = answers("supervised", 0.6, fraction=1.0) + answers("tuned", 0.7, fraction=1.0)
    assert set(comparisons(few + many, TRUTH)) == {Amount(0, 0.05), Amount(0, 1.0)}
    text = sentence(few + many, TRUTH)
    assert text.index("With 10 labels") < text.index("With 200 labels")
    assert sentence(answers("tuned", 0.5), TRUTH) == ""


def test_a_class_of_one_test_utterance_is_said_to_be_too_few():
    both = answers("supervised", 0.5) + answers("tuned", 0.5)
    truth = np.where(np.arange(len(TRUTH)) == 0, 9, TRUTH)
    assert "too few test utterances" in sentence(both, truth)


def test_the_difference_is_that_of_the_uar():
    one, another = (RNG.random(len(TRUTH)) < share for share in (0.7, 0.4))
    recalls = [np.mean([x[c == TRUTH].mean() for c in range(4)]) for x in (one, another)]
    assert paired_uar(TRUTH, one * 1.0, another * 1.0).mean == pytest.approx(recalls[0] - recalls[1])


def test_the_interval_is_that_of_the_bootstrap_over_utterances_of_each_class():
    """The closed form needs no resampling; 4,000 resamples agree with it."""
    one, another = ((RNG.random(len(TRUTH)) < share) * 1.0 for share in (0.7, 0.4))
    classes = [np.flatnonzero(c == TRUTH) for c in range(4)]
    drawn = [
        np.mean([(one - another)[RNG.choice(rows, len(rows))].mean() for rows in classes])
        for _ in range(4000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert paired_uar(TRUTH, one, another).half_width == pytest.approx((high - low) / 2, rel=0.1)


def test_without_a_difference_all_comparisons_are_chance_in_at_least_95_percent_of_the_tables():
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(200):
        same = [answers(method, 0.5, repeats=1, rng=rng) for method in ("supervised", "frozen", "tuned")]
        texts.append(sentence([a for cell in same for a in cell], TRUTH))
    assert np.mean([": all are." in text for text in texts]) >= 0.93


@pytest.mark.slow
def test_the_differences_are_those_of_the_records_of_a_fold(make_runner):
    runner = make_runner()
    plan = list(label_efficiency([runner.pretraining(1)], SETTINGS, {0.5: 2, 1.0: 1}, probes=False))
    runner.pretrain(plan[0])
    rows = list(runner.run_all(plan[1:-1]))  # the last one is not finished
    found = comparisons(*read_answers(runner.ledger, plan, runner.corpus))

    def mean(view: str, fraction: float, method: str, frozen: bool) -> float:
        wanted = (view, fraction, method, frozen)
        cell = [r["uar"] for r in rows if (r["title"], r["fraction"], r["method"], r["frozen"]) == wanted]
        return float(np.mean(cell))

    assert {labelled.fraction: len(group) for labelled, group in found.items()} == {0.5: 4, 1.0: 3}
    for labelled, group in found.items():
        for name, difference in group:
            method, view = name.split()
            share = labelled.fraction
            expected = mean(view, share, "pairwise-cl", method == "frozen") - mean(
                view, share, "supervised", False
            )
            assert difference.mean == pytest.approx(expected, abs=1e-6)
