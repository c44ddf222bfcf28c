"""No speaker is in two parts of a fold; a smaller subset of labels is contained in a larger one."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.corpora.folds import labelled, labelled_subset, leave_one_session_out
from pcl_jax.corpora.targets import FOUR
from pcl_jax.corpora.utterance import Corpus, CorpusError

MakeCorpus = Callable[[dict[str, int]], Corpus]
COUNTS = {"neutral": 31, "angry": 20, "sad": 7, "happy": 1, "bored": 12}


def test_each_session_is_tested_once_and_validated_once(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    folds = leave_one_session_out(corpus)
    assert [fold.test_session for fold in folds] == [1, 2, 3, 4, 5]
    assert [{u.session for u in fold.validation} for fold in folds] == [{2}, {3}, {4}, {5}, {1}]
    for fold in folds:
        assert {u.session for u in fold.test} == {fold.test_session}
        assert sorted(u.id for u in (*fold.train, *fold.validation, *fold.test)) == [
            u.id for u in corpus.utterances
        ]
        assert {u.speaker for u in fold.train}.isdisjoint(u.speaker for u in (*fold.validation, *fold.test))


def test_a_speaker_in_two_sessions_is_refused(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    first, *rest = corpus.utterances
    stray = replace(first, speaker="4M")
    with pytest.raises(
        CorpusError, match=r"speaker '4M' .* sessions 1 and 4: .* give each speaker one session"
    ):
        leave_one_session_out(replace(corpus, utterances=(stray, *rest)))


def test_a_missing_session_is_refused(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    four = tuple(u for u in corpus.utterances if u.session != 3)
    with pytest.raises(CorpusError, match="session 3 of abstract has no utterances"):
        leave_one_session_out(replace(corpus, utterances=four))


@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0])
def test_each_class_gives_its_share_and_at_least_one(abstract_corpus: MakeCorpus, fraction: float) -> None:
    corpus = abstract_corpus(COUNTS)
    train = leave_one_session_out(corpus)[0].train
    subset = labelled_subset(train, corpus, fraction=fraction, repeat=0, seed=0)
    expected = {name: max(1, int(fraction * 3 * COUNTS[name])) for name in FOUR}
    assert Counter(u.emotion for u in subset) == expected
    assert set(subset) <= set(train)


def test_a_fraction_of_one_is_all_labels(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    train = leave_one_session_out(corpus)[2].train
    assert labelled_subset(train, corpus, fraction=1.0, repeat=3, seed=1) == labelled(train, corpus)


@given(
    fractions=st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)),
    fold=st.integers(0, 4),
    repeat=st.integers(0, 9),
    seed=st.integers(0, 2**32),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_subsets_are_nested_whatever_the_order(fractions, fold, repeat, seed, random) -> None:
    corpus = _CORPUS
    train = list(leave_one_session_out(corpus)[fold].train)
    small = labelled_subset(train, corpus, fraction=min(fractions), repeat=repeat, seed=seed)
    random.shuffle(train)
    large = labelled_subset(train, corpus, fraction=max(fractions), repeat=repeat, seed=seed)
    assert set(small) <= set(large)


def test_a_number_per_class_takes_the_head_of_the_same_order(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    train = leave_one_session_out(corpus)[0].train
    three = labelled_subset(train, corpus, per_class=3, repeat=0, seed=0)
    assert Counter(u.emotion for u in three) == dict.fromkeys(FOUR, 3)
    five = labelled_subset(train, corpus, per_class=5, repeat=0, seed=0)
    assert Counter(u.emotion for u in five) == {**dict.fromkeys(FOUR, 5), "happy": 3}
    assert set(three) <= set(five)


def test_repeats_seeds_and_folds_draw_differently(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus({"neutral": 200})
    folds = leave_one_session_out(corpus)
    # Folds 1 and 2 both train on sessions 4 and 5: there they must not draw the same.
    shared = [u for u in folds[0].train if u.session in (4, 5)]

    def draw(fold: int, repeat: int, seed: int) -> frozenset[str]:
        subset = labelled_subset(folds[fold].train, corpus, fraction=0.5, repeat=repeat, seed=seed)
        return frozenset(u.id for u in subset if u in shared)

    assert len({draw(0, 0, 0), draw(0, 1, 0), draw(0, 0, 1), draw(1, 0, 0)}) == 4


@pytest.mark.parametrize(
    "wrong", [{}, {"fraction": 0.5, "per_class": 3}, {"fraction": 0.0}, {"per_class": 0}]
)
def test_a_fraction_outside_its_range_is_refused(abstract_corpus: MakeCorpus, wrong: dict) -> None:
    corpus = abstract_corpus(COUNTS)
    with pytest.raises(CorpusError, match="give"):
        labelled_subset(corpus.utterances, corpus, repeat=0, seed=0, **wrong)


def test_the_hash_seed_of_the_process_does_not_matter() -> None:
    program = """
from pathlib import Path
from pcl_jax.corpora.folds import labelled_subset
from pcl_jax.corpora.utterance import Corpus, Utterance
us = tuple(Utterance(f"{i}", Path("x"), 1 + i % 3, "s", "ab"[i % 2], 1.0) for i in range(60))
corpus = Corpus("c", us, {"a": ("a",), "b": ("b",)})
print([u.id for u in labelled_subset(set(us), corpus, fraction=0.2, repeat=0, seed=0)])
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def _corpus() -> Corpus:
    from pathlib import Path

    from pcl_jax.corpora.utterance import Utterance

    return Corpus(
        "small",
        tuple(
            Utterance(f"{s}-{e}-{i}", Path("none.wav"), s, str(s), e, 1.0)
            for s in range(1, 6)
            for e in ("angry", "bored", "neutral", "sad")
            for i in range(9)
        ),
        FOUR,
    )


_CORPUS = _corpus()
