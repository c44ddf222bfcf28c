"""Recordings that belong to two speakers or sessions: a model would be tested on what it was trained on."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pcl_jax import audio
from pcl_jax.audio import AudioError
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance

Digests = Mapping[Path, str | AudioError]
"""Digest of each file's bytes, as `audio.file_digests` gives them."""

_TOLERANCE_S = 0.02
"""Overlap in seconds by which neighbouring segments of a rounded table may differ."""


def check(utterances: Iterable[Utterance], digests: Digests | None = None) -> None:
    """Refuse a corpus in which one recording belongs to two sessions, or to two speakers.

    A recording is known by the bytes of its file, whatever its name and folder; re-encoded copies cannot be
    seen. Segments of one file are one recording where they overlap. Two speakers of one session may talk
    at the same time, so there only segments are refused that are the same for the most part.

    Args:
        utterances: Utterances to be split into folds.
        digests: Digests of files that are known already; the others are computed.

    Raises:
        CorpusError: The first such pair, and the number of all.
    """
    problems = shared_recordings(utterances, digests)
    if problems:
        others = f" (and {len(problems) - 1} more such pairs)" if len(problems) > 1 else ""
        raise CorpusError(problems[0].message + others)


def check_apart(corpus: Corpus, extra: Corpus, digests: Digests | None = None) -> None:
    """Refuse an extra corpus for pre-training that holds a file of the corpus, by the file's bytes.

    Args:
        corpus: Corpus that is split into folds.
        extra: Corpus that is added to the training set of every fold.
        digests: Digests of files that are known already; the others are computed.

    Raises:
        CorpusError: The first such file.
    """
    known = _digests((*corpus.utterances, *extra.utterances), digests)
    ids = {known[u.path]: u.id for u in corpus.utterances}
    for u in extra.utterances:
        digest = known[u.path]
        if digest in ids and not isinstance(digest, AudioError):
            raise CorpusError(
                f"{u.id} of {extra.name} is from the same recording as {ids[digest]} of {corpus.name}: "
                "pre-training would use test speakers; leave it out"
            )


def shared_recordings(utterances: Iterable[Utterance], digests: Digests | None = None) -> list[Problem]:
    """Report every pair of utterances that share a recording and differ in session or speaker.

    The arguments are those of `check`. Each problem is fatal.
    """
    utterances = tuple(utterances)
    known = _digests(utterances, digests)
    recordings: defaultdict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        digest = known[u.path]
        if not isinstance(digest, AudioError):  # decoding will say what is wrong
            recordings[digest].append(u)
    found = []
    for members in recordings.values():
        if len({(u.session, u.speaker) for u in members}) > 1:
            found.extend(_problem(first, second) for first, second in _conflicts(members))
    return found


def _digests(utterances: Sequence[Utterance], digests: Digests | None) -> Digests:
    known = digests or {}
    return {**known, **audio.file_digests({u.path for u in utterances} - known.keys())}


def _conflicts(members: Sequence[Utterance]) -> Iterable[tuple[Utterance, Utterance]]:
    """Yield the conflicting pairs among the segments of one recording."""
    members = sorted(members, key=lambda u: (u.start_s, u.id))
    for index, first in enumerate(members):
        end_s = first.start_s + first.duration_s
        for second in members[index + 1 :]:
            if second.start_s >= end_s:
                break
            overlap_s = min(end_s, second.start_s + second.duration_s) - second.start_s
            if first.session != second.session:
                conflict = overlap_s > _TOLERANCE_S
            else:
                longer_s = max(first.duration_s, second.duration_s)
                conflict = first.speaker != second.speaker and overlap_s > longer_s / 2
            if conflict:
                yield first, second


def _problem(first: Utterance, second: Utterance) -> Problem:
    belongs = " and ".join(
        f"{u.id} (speaker {u.speaker!r}, session {u.session}, {u.path})" for u in (first, second)
    )
    message = (
        f"one recording is {belongs}: a model would be tested on audio it was trained on; remove one of them"
    )
    return Problem("shared_recording", second.id, message, fatal=True)
