"""Leave-one-session-out folds, and subsets of the labels per class.

The same folds serve pre-training and fine-tuning, so no test speaker is heard before the test.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from pcl_jax.corpora.grouping import SESSIONS
from pcl_jax.corpora.utterance import Corpus, CorpusError, NotPossible, Problem, Utterance


@dataclass(frozen=True)
class Fold:
    """Assignment of all utterances, labelled or not, to training, validation and test.

    A fold is named by its test session.
    """

    test_session: int
    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]


def validation_session(test_session: int) -> int:
    """Return the session after the test session, s mod 5 + 1."""
    return test_session % SESSIONS + 1


def leave_one_session_out(corpus: Corpus) -> tuple[Fold, ...]:
    """Split a corpus into five folds: test session s, validation session s mod 5 + 1, training on the rest.

    Raises:
        CorpusError: A session has no utterances, a speaker is in two sessions, or a problem of the corpus is
            fatal.
    """
    faults = (problem for problem in corpus.problems if problem.fatal)
    for obstacle in (*faults, *obstacles(corpus)):
        raise CorpusError(obstacle.message)
    by_session = {
        session: tuple(u for u in corpus.utterances if u.session == session)
        for session in range(1, SESSIONS + 1)
    }
    folds = []
    for test in by_session:
        validation = validation_session(test)
        train = tuple(u for u in corpus.utterances if u.session not in (test, validation))
        folds.append(Fold(test, train, by_session[validation], by_session[test]))
    return tuple(folds)


def require_batch(utterances: int, batch: int, kind: str = "") -> None:
    """Refuse to pre-train on fewer utterances than one batch.

    Args:
        utterances: Number of training utterances of the fold.
        batch: Utterances of a batch.
        kind: Words behind the number that say which utterances count.

    Raises:
        NotPossible: There are too few.
    """
    if utterances < batch:
        raise NotPossible(
            f"the fold has {utterances} training utterances{kind}, fewer than one batch of {batch}; "
            "choose a smaller --batch"
        )


def obstacles(corpus: Corpus) -> tuple[Problem, ...]:
    """Return the problems that keep a corpus from being split into five folds."""
    found: list[Problem] = []
    speakers: dict[str, set[int]] = {}
    for u in corpus.utterances:
        speakers.setdefault(u.speaker, set()).add(u.session)
    sessions = {u.session for u in corpus.utterances}
    for session in sorted(set(range(1, SESSIONS + 1)) - sessions):
        message = (
            f"session {session} of {corpus.name} has no utterances ({len(speakers)} speakers in all); "
            "five folds need five sessions of at least one speaker each"
        )
        found.append(Problem("no_session", f"session {session}", message, fatal=True))
    for session in sorted(sessions - set(range(1, SESSIONS + 1))):
        message = f"{corpus.name} has a session {session}; sessions are numbered 1..{SESSIONS}"
        found.append(Problem("no_session", f"session {session}", message, fatal=True))
    for speaker, present in sorted(speakers.items()):
        if len(present) > 1:
            listed = " and ".join(map(str, sorted(present)))
            message = (
                f"speaker {speaker!r} of {corpus.name} is in sessions {listed}: a model would be tested on "
                "a voice it was trained on; give each speaker one session"
            )
            found.append(Problem("speaker_in_two_sessions", speaker, message, fatal=True))
    return tuple(found)


def labelled(utterances: Iterable[Utterance], corpus: Corpus) -> tuple[Utterance, ...]:
    """Select the utterances whose emotion is a target, in the given order."""
    return tuple(u for u in utterances if corpus.label(u) is not None)


def labelled_subset(
    utterances: Iterable[Utterance],
    corpus: Corpus,
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    repeat: int,
    seed: int,
) -> tuple[Utterance, ...]:
    """Draw max(1, int(p n)) of the n labelled utterances of each class.

    Each class is shuffled once per (seed, fold, repeat), and a subset is the head of that order. So a
    smaller fraction is contained in a larger one, and every method and view sees the same utterances.
    The fold is identified by the sessions present in `utterances`.

    Args:
        utterances: Training utterances of a fold, in any order; those without a target are ignored.
        corpus: Corpus whose targets define the classes.
        fraction: Share p of the labels, in (0, 1].
        per_class: Number of utterances per class, in place of `fraction`; all where a class has fewer.
        repeat: Number of the draw, 0..9 in the paper.
        seed: Seed of the run, at least 0.

    Returns:
        The chosen utterances, sorted by id. A class without utterances stays absent.

    Raises:
        CorpusError: Not exactly one of `fraction` and `per_class` is given, or it is out of range.
    """
    if (fraction is None) == (per_class is None):
        raise CorpusError(f"give fraction or per_class, not fraction={fraction} and per_class={per_class}")
    if fraction is not None and not 0 < fraction <= 1:
        raise CorpusError(f"fraction={fraction} is not a share of the labels; give 0 < fraction <= 1")
    if per_class is not None and per_class < 1:
        raise CorpusError(f"per_class={per_class} leaves no labels; give at least 1")
    utterances = tuple(utterances)
    fold = sum(1 << session for session in {u.session for u in utterances})
    members: dict[int, list[Utterance]] = {}
    for u in utterances:
        label = corpus.label(u)
        if label is not None:
            members.setdefault(label, []).append(u)
    chosen: list[Utterance] = []
    for label, candidates in members.items():
        candidates.sort(key=lambda u: u.id)
        rng = np.random.default_rng([seed, crc32(b"subset"), fold, repeat, label])
        order = rng.permutation(len(candidates))
        size = max(1, int(fraction * len(candidates))) if fraction is not None else per_class
        chosen.extend(candidates[i] for i in order[:size])
    return tuple(sorted(chosen, key=lambda u: u.id))
