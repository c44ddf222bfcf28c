"""One recording in two sessions, or of two speakers, is found by the bytes of its file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pcl_jax import audio
from pcl_jax.corpora import leakage
from pcl_jax.corpora.inspect import inspect
from pcl_jax.corpora.utterance import Corpus, CorpusError, Utterance

WriteAudio = Callable[..., Path]


@pytest.fixture
def utterances(tmp_path: Path, write_audio: WriteAudio) -> list[Utterance]:
    """Five utterances of five speakers in five sessions, 10 s each by their records."""
    return [
        Utterance(f"{i}", write_audio(tmp_path / f"{i}.wav"), i, f"s{i}", "sad", 10.0) for i in range(1, 6)
    ]


def test_different_recordings_pass(utterances: list[Utterance]) -> None:
    leakage.check(utterances)


@pytest.mark.parametrize("changes", [{"session": 2}, {"speaker": "s2"}, {"session": 2, "speaker": "s2"}])
def test_a_copy_in_another_session_or_of_another_speaker_is_refused(
    utterances: list[Utterance], tmp_path: Path, changes: dict
) -> None:
    path = tmp_path / "elsewhere" / "renamed.wav"
    path.parent.mkdir()
    path.write_bytes(utterances[0].path.read_bytes())
    copy = replace(utterances[0], id="copy", path=path, **changes)
    with pytest.raises(
        CorpusError, match=r"one recording is .*'s1', session 1, .*1\.wav\) and copy .*remove"
    ):
        leakage.check([*utterances, copy])
    # Within a speaker's session it is a repetition, which no fold can separate.
    leakage.check([*utterances, replace(utterances[0], id="copy", path=path)])


@pytest.mark.parametrize(
    ("start_s", "duration_s", "changes", "refused"),
    [
        (0.01, 9.99, {"session": 2}, True),
        (5.0, 1.0, {"session": 2}, True),
        (10.0, 5.0, {"session": 2}, False),
        (9.99, 5.0, {"session": 2}, False),  # a rounded table
        (0.01, 9.99, {"speaker": "s2"}, True),
        (9.0, 5.0, {"speaker": "s2"}, False),  # two speakers of a dialogue at the same time
        (4.0, 1.0, {"speaker": "s2"}, False),  # one says yes while the other speaks
    ],
)
def test_overlapping_parts_of_one_file_are_one_recording(
    utterances: list[Utterance], start_s: float, duration_s: float, changes: dict, refused: bool
) -> None:
    part = replace(utterances[0], id="part", start_s=start_s, duration_s=duration_s, **changes)
    problems = leakage.shared_recordings([*utterances, part])
    assert [(p.kind, p.fatal) for p in problems] == [("shared_recording", True)] * refused


def test_known_digests_are_not_computed_again(utterances: list[Utterance]) -> None:
    digests = audio.file_digests(u.path for u in utterances)
    for u in utterances:
        u.path.unlink()
    leakage.check(utterances, digests)
    leakage.check(utterances)  # files that cannot be read are for the decoder to report
    with pytest.raises(CorpusError):
        leakage.check(utterances, dict.fromkeys(digests, "one"))


def test_inspection_finds_it_and_calls_the_corpus_unusable(utterances: list[Utterance]) -> None:
    copies = [
        replace(u, id=f"{u.id}b", session=u.session % 5 + 1, speaker=f"{u.speaker}b") for u in utterances
    ]
    corpus = Corpus("copied", (*utterances, *copies), {"sad": ("sad",), "happy": ("happy",)})
    inspection = inspect(corpus)
    assert not inspection.usable
    assert sum(p.kind == "shared_recording" for p in inspection.problems) == 5


def test_an_extra_corpus_must_not_hold_a_file_of_the_corpus(
    utterances: list[Utterance], tmp_path: Path, write_audio: WriteAudio
) -> None:
    corpus = Corpus("mine", tuple(utterances), {})
    fresh = replace(utterances[0], path=write_audio(tmp_path / "fresh.wav"))
    leakage.check_apart(corpus, Corpus("extra", (fresh,), {}))
    copy = tmp_path / "copy.wav"
    copy.write_bytes(utterances[2].path.read_bytes())
    late = replace(fresh, id="late", path=copy, start_s=0.01)
    with pytest.raises(CorpusError, match="late of extra is from the same recording as 3 of mine"):
        leakage.check_apart(corpus, Corpus("extra", (fresh, late), {}))
