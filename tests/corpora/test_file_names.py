"""EMO-DB, RAVDESS and CREMA-D: labels come from file names, whatever the folders."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pcl_jax.corpora import crema_d, emodb, ravdess, read
from pcl_jax.corpora.file_names import FileName
from pcl_jax.corpora.folds import leave_one_session_out
from pcl_jax.corpora.utterance import Corpus, CorpusError

WriteAudio = Callable[..., Path]


def genders_per_session(corpus: Corpus, genders: dict[str, str]) -> dict[int, Counter[str]]:
    speakers = {(u.session, u.speaker) for u in corpus.utterances}
    return {s: Counter(genders[name] for session, name in speakers if session == s) for s in range(1, 6)}


@pytest.fixture
def emodb_root(tmp_path: Path, write_audio: WriteAudio) -> Path:
    for number, speaker in enumerate(sorted(emodb.GENDERS)):
        for letter in emodb.EMOTIONS:
            for version in "abc"[: 1 + number % 3]:
                write_audio(tmp_path / "emodb" / "wav" / f"{speaker}a01{letter}{version}.wav")
    return tmp_path / "emodb"


@pytest.fixture
def ravdess_root(tmp_path: Path, write_audio: WriteAudio) -> Path:
    for actor in ravdess.GENDERS:
        for emotion in ravdess.EMOTIONS:
            # The release: 48 kHz, and a few files in stereo.
            path = tmp_path / "ravdess" / f"Actor_{actor}" / f"03-01-{emotion}-01-01-01-{actor}.wav"
            write_audio(path, sampling_rate=48_000, channels=1 + (actor == "20"))
    return tmp_path / "ravdess"


@pytest.fixture
def crema_d_root(tmp_path: Path, write_audio: WriteAudio) -> Path:
    for actor in range(1001, 1013):
        for emotion in crema_d.EMOTIONS:
            write_audio(tmp_path / "crema" / "AudioWAV" / f"{actor}_DFA_{emotion}_XX.wav")
    return tmp_path / "crema"


@pytest.mark.parametrize("name", ["emodb", "ravdess", "crema_d"])
def test_folds_are_disjoint_in_speaker_and_every_class_is_in_every_part(
    name: str, request: pytest.FixtureRequest
) -> None:
    corpus = read(name, request.getfixturevalue(f"{name}_root"))
    assert corpus.problems == ()
    for fold in leave_one_session_out(corpus):
        parts = (fold.train, fold.validation, fold.test)
        voices = [{u.speaker for u in part} for part in parts]
        assert sum(map(len, voices)) == len(set().union(*voices))
        for part in parts:
            assert {corpus.label(u) for u in part} >= {0, 1, 2, 3}


def test_emodb_sessions_are_a_man_and_a_woman(emodb_root: Path) -> None:
    corpus = emodb.read(emodb_root)
    assert set(map(frozenset, map(dict.items, genders_per_session(corpus, emodb.GENDERS).values()))) == {
        frozenset({("male", 1), ("female", 1)})
    }
    assert len(corpus.utterances) == 7 * sum(1 + i % 3 for i in range(10))


def test_ravdess_sessions_have_both_genders_and_calm_counts_as_neutral(ravdess_root: Path) -> None:
    corpus = ravdess.read(ravdess_root)
    assert len(corpus.utterances) == 24 * 8
    for counts in genders_per_session(corpus, ravdess.GENDERS).values():
        assert set(counts) == {"male", "female"}
        assert set(counts.values()) <= {2, 3}
    assert Counter(corpus.label(u) for u in corpus.utterances) == {0: 48, 1: 24, 2: 24, 3: 24, None: 72}
    # 0.1 s at 48 kHz, in stereo too: a duration is no count of samples.
    assert {u.duration_s for u in corpus.utterances} == {0.1}


def test_ravdess_songs_are_left_out_by_name() -> None:
    problem = ravdess.parse("03-02-05-02-01-02-24")
    assert not isinstance(problem, FileName)
    assert problem.kind == "song"


def test_crema_d_takes_genders_from_its_demographics_and_one_of_two_formats(
    crema_d_root: Path, write_audio: WriteAudio
) -> None:
    write_audio(crema_d_root / "AudioOGG" / "1001_DFA_ANG_XX.ogg")
    rows = [f"{actor},40,{'Male' if actor < 1007 else 'Female'},x,y" for actor in range(1001, 1013)]
    header = "ActorID,Age,Sex,Race,Ethnicity\n"
    (crema_d_root / "VideoDemographics.csv").write_text(header + "\n".join(rows) + "\n")
    corpus = crema_d.read(crema_d_root)
    assert (len(corpus.utterances), corpus.problems) == (72, ())
    genders = {str(actor): "male" if actor < 1007 else "female" for actor in range(1001, 1013)}
    assert all(set(c) == {"male", "female"} for c in genders_per_session(corpus, genders).values())


def test_strange_files_are_problems_not_crashes(emodb_root: Path, write_audio: WriteAudio) -> None:
    write_audio(emodb_root / "hello.wav")
    write_audio(emodb_root / "03a01Xa.flac")
    write_audio(emodb_root / "copy" / "03a01Wa.wav")
    (emodb_root / "wav" / "08a01Wa.wav").write_text("not audio")
    (emodb_root / "wav" / "._03a01Wa.wav").write_bytes(b"\x00\x05\x16\x07")
    (emodb_root / "notes.txt").write_text("no audio, no matter")
    whole = (emodb_root / "wav" / "09a01Wa.wav").read_bytes()
    (emodb_root / "wav" / "09a01Wa.wav").write_bytes(whole[: len(whole) // 2])
    corpus = emodb.read(emodb_root)
    assert {(p.kind, Path(p.item).name) for p in corpus.problems} == {
        ("unknown_name", "hello.wav"),
        ("unknown_label", "03a01Xa.flac"),
        ("duplicate_id", "03a01Wa.wav"),
        ("unreadable", "08a01Wa.wav"),
        ("truncated", "09a01Wa.wav"),
    }
    ids = {u.id for u in corpus.utterances}
    assert "08a01Wa" not in ids
    assert "03a01Wa" in ids


def test_emodb_speech_is_in_wav_and_never_in_laryngo(emodb_root: Path, write_audio: WriteAudio) -> None:
    expected = read("emodb", emodb_root).utterances
    for path in sorted((emodb_root / "wav").iterdir()):
        write_audio(emodb_root / "laryngo" / path.name)
        write_audio(emodb_root / "laryngo" / f"{path.stem}.flac")
    write_audio(emodb_root / "laryngo" / "16b10Wd.wav")  # of no speech
    corpus = read("emodb", emodb_root)
    assert corpus.utterances == expected
    assert corpus.left_out.count == 0
    assert Counter(p.kind for p in corpus.problems) == {"not_speech": 2 * len(expected) + 1}


@pytest.mark.parametrize("name", ["emodb", "ravdess", "crema_d"])
def test_one_name_for_two_contents_is_refused(
    name: str, request: pytest.FixtureRequest, write_audio: WriteAudio
) -> None:
    root = request.getfixturevalue(f"{name}_root")
    first, second = sorted(root.rglob("*.wav"))[:2]
    for folder in ("original", "a copy"):  # before and behind the first folder in the alphabet
        (root / folder).mkdir()
        (root / folder / first.name).write_bytes(first.read_bytes())
    first.unlink()
    corpus = read(name, root)
    assert [(p.kind, p.lost) for p in corpus.problems] == [("duplicate_id", 0)]
    write_audio(root / "music_removed" / second.name)
    write_audio(root / "more" / first.name)
    if name == "emodb":
        second.rename(root / second.name)  # else `wav/` decides
    with pytest.raises(CorpusError, match=r"one name and different contents, as have 1 more pairs.*--root"):
        read(name, root)


def test_another_format_of_a_recording_is_reported(ravdess_root: Path, write_audio: WriteAudio) -> None:
    path = min(ravdess_root.rglob("*.wav"))
    write_audio(path.with_suffix(".flac"))
    corpus = read("ravdess", ravdess_root)
    assert len(corpus.utterances) == 24 * 8
    assert [(p.kind, p.lost) for p in corpus.problems] == [("other_format", 0)]


@pytest.mark.slow
def test_a_ravdess_performance_is_taken_once(ravdess_root: Path, write_audio: WriteAudio) -> None:
    expected = read("ravdess", ravdess_root).utterances
    for path in sorted(ravdess_root.rglob("*.wav")):
        write_audio(path.with_name(f"01{path.stem[2:]}.wav"))
        write_audio(path.with_name(f"01{path.stem[2:]}.flac"))
        write_audio(path.with_name(f"02{path.stem[2:]}.wav"))  # a video without sound
    corpus = read("ravdess", ravdess_root)
    assert corpus.utterances == expected
    assert Counter((p.kind, p.lost) for p in corpus.problems) == {
        ("duplicate_id", 0): 2 * 24 * 8,
        ("not_speech", 0): 24 * 8,
    }
    # Without the audio-only file the sound track of the video is the recording.
    expected[0].path.unlink()
    (first, *_) = read("ravdess", ravdess_root).utterances
    assert first.id == f"01{expected[0].id[2:]}"


@pytest.mark.parametrize("name", ["emodb", "ravdess", "crema_d"])
def test_linked_folders_are_read(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = request.getfixturevalue(f"{name}_root")
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in root.iterdir():
        (linked / folder.name).symlink_to(folder)
    (linked / "cycle").symlink_to(linked)
    corpus = read(name, linked)
    assert [u.id for u in corpus.utterances] == [u.id for u in read(name, root).utterances]
    assert corpus.problems == ()


def test_lost_utterances_are_told_from_remarks(emodb_root: Path, write_audio: WriteAudio) -> None:
    write_audio(emodb_root / "hello.wav")  # no utterance by its name
    write_audio(emodb_root / "03a01Xa.wav")  # an emotion that is not known
    (emodb_root / "wav" / "08a01Wa.wav").write_text("version https://git-lfs.github.com/spec/v1\noid 1")
    whole = (emodb_root / "wav" / "09a01Wa.wav").read_bytes()
    (emodb_root / "wav" / "09a01Wa.wav").write_bytes(whole[: len(whole) // 2])
    corpus = read("emodb", emodb_root)
    assert corpus.left_out.count == 3
    assert ["git lfs pull" in line for line in corpus.left_out.lines] == [False, True, False]
    assert {"08a01Wa", "09a01Wa"}.isdisjoint(u.id for u in corpus.utterances)


def test_names_that_are_no_text_are_reported_in_print(emodb_root: Path, write_audio: WriteAudio) -> None:
    write_audio(emodb_root / "new\nline.wav")
    os.rename(write_audio(emodb_root / "x.wav"), os.fsencode(emodb_root) + b"/Gl\xfcck.wav")
    problems = read("emodb", emodb_root).problems
    assert [p.kind for p in problems] == ["unknown_name"] * 2
    assert all(p.message.isprintable() and p.item.isprintable() for p in problems)


def test_a_corpus_of_which_no_file_can_be_used_is_refused(emodb_root: Path) -> None:
    for path in emodb_root.rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(
        CorpusError, match=r"no utterance that can be used: \d+ empty; the first: .*zero length"
    ):
        read("emodb", emodb_root)


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no audio"):
        read("emodb", tmp_path)
    with pytest.raises(CorpusError, match="is not a folder"):
        read("emodb", tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="unknown corpus 'emo'; choose from demo, iemocap, emodb, ravdess"):
        read("emo", tmp_path)
    with pytest.raises(CorpusError, match="'ravdess' needs a root"):
        read("ravdess")


@pytest.mark.corpora
def test_real_emodb(corpora_folder: Path) -> None:
    corpus = read("emodb", corpora_folder / "emodb")
    assert Counter(u.emotion for u in corpus.utterances) == {
        "angry": 127, "bored": 81, "disgusted": 46, "fearful": 69, "happy": 71, "sad": 62, "neutral": 79
    }  # fmt: skip
    assert corpus.problems == ()
    sizes = Counter(u.session for u in corpus.utterances)
    assert max(sizes.values()) - min(sizes.values()) < 20
    leave_one_session_out(corpus)


@pytest.mark.corpora
def test_real_ravdess(corpora_folder: Path) -> None:
    corpus = read("ravdess", corpora_folder / "ravdess")
    assert len(corpus.utterances) == 1440
    assert corpus.problems == ()
    leave_one_session_out(corpus)
    original = read("ravdess", corpora_folder / "ravdess_original")
    resampled = {u.id: u.duration_s for u in corpus.utterances}
    for u in original.utterances:
        assert u.duration_s == pytest.approx(resampled[u.id], abs=1e-3)
