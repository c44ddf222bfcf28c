"""Groups of speakers, as the five sessions of a corpus that has none."""

from collections.abc import Mapping

SESSIONS = 5
"""Number of sessions: as many as IEMOCAP has, so that every corpus is evaluated by the same folds."""


def group_speakers(counts: Mapping[str, int], genders: Mapping[str, str] | None = None) -> dict[str, int]:
    """Assign each speaker to a session 1..5, balanced in utterances and, where known, in gender.

    The assignment is greedy, largest speaker first. A speaker joins the session with the fewest utterances
    of the same gender; ties go to the session with the fewest utterances of all, then to the first. So per
    gender no two sessions differ by more than one speaker's utterances, and ten speakers of two genders
    make five pairs.

    Args:
        counts: Speaker -> number of utterances. The order of the speakers does not matter.
        genders: Speaker -> any word; speakers without one count as one more gender.

    Returns:
        Speaker -> session. Fewer than five speakers leave sessions empty, which `folds.obstacles` reports.
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
