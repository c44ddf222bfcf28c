"""Five sessions for a corpus that has none: groups of speakers."""

from collections.abc import Mapping

SESSIONS = 5
"""As many as IEMOCAP has, so that every corpus is evaluated by the same folds."""


def group_speakers(counts: Mapping[str, int], genders: Mapping[str, str] | None = None) -> dict[str, int]:
    """Speaker -> session 1..5, balanced in utterances and, where known, in gender.

    Greedy, largest first: each speaker joins the session with the fewest utterances of his or her
    gender, then with the fewest of all, then the first. So per gender no two sessions differ by more
    than one speaker's utterances, and ten speakers of two genders make five pairs.

    Args:
        counts: utterances per speaker.
        genders: any word per speaker; speakers without one count as one more gender.

    Returns:
        The same for the same counts, in whatever order they come. Fewer than five speakers leave
        sessions empty, which `folds.obstacles` reports.
    """
    genders = genders or {}
    total = dict.fromkeys(range(1, SESSIONS + 1), 0)
    sessions: dict[str, int] = {}
    for gender in sorted({genders.get(speaker, "") for speaker in counts}):
        load = dict.fromkeys(total, 0)
        members = [speaker for speaker in counts if genders.get(speaker, "") == gender]
        for speaker in sorted(members, key=lambda s: (-counts[s], s)):
            session = min(total, key=lambda s: (load[s], total[s], s))
            sessions[speaker] = session
            load[session] += counts[speaker]
            total[session] += counts[speaker]
    return sessions
