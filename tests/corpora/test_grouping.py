"""Speakers are grouped into five sessions, balanced and deterministic."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pcl_jax.corpora.grouping import group_speakers

COUNTS = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 500), min_size=1, max_size=40)


@given(COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_the_speakers_does_not_matter(counts: dict[str, int], random) -> None:
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    assert group_speakers(dict(shuffled)) == group_speakers(counts)


@given(COUNTS, st.data())
def test_no_two_sessions_differ_by_more_than_one_speaker(counts: dict[str, int], data: st.DataObject) -> None:
    genders = {s: data.draw(st.sampled_from(["male", "female"])) for s in counts}
    sessions = group_speakers(counts, genders)
    for gender in set(genders.values()):
        members = [s for s in counts if genders[s] == gender]
        load = Counter(dict.fromkeys(range(1, 6), 0))
        for speaker in members:
            load[sessions[speaker]] += counts[speaker]
        assert max(load.values()) - min(load.values()) <= max(counts[s] for s in members)


@given(COUNTS)
def test_five_speakers_fill_five_sessions(counts: dict[str, int]) -> None:
    assert len(set(group_speakers(counts).values())) == min(5, len(counts))


def test_ten_speakers_of_two_genders_make_five_pairs() -> None:
    genders = {f"{i:02d}": "male" if i % 2 else "female" for i in range(10)}
    sessions = group_speakers({speaker: 10 + int(speaker) ** 2 for speaker in genders}, genders)
    pairs = Counter((session, genders[speaker]) for speaker, session in sessions.items())
    assert pairs == {(session, gender): 1 for session in range(1, 6) for gender in ("male", "female")}
