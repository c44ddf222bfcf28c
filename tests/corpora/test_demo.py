"""The demo is deterministic, and is complete or absent."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pcl_jax.corpora import demo, read
from pcl_jax.corpora.utterance import CorpusError

LINES = [line for session in range(1, 6) for line in demo.script(session)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo of twenty utterances, for tests that do not depend on the number."""
    monkeypatch.setattr(demo, "SESSION_SIZES", (4, 4, 4, 4, 4))


def test_the_script_is_640_short_utterances_of_which_three_fifths_are_targets() -> None:
    durations_s = np.array([len(demo.waveform(line)) / 16_000 for line in LINES[::8]])
    assert len({line.id for line in LINES}) == 640
    assert durations_s.min() >= 0.6
    assert durations_s.max() <= 4
    assert np.median(durations_s) < durations_s.mean()
    assert 8 * durations_s.sum() < 20 * 60
    counts = Counter(line.code for line in LINES)
    assert set(counts) == {*demo.SHARES, "xxx"}
    assert 0.55 < sum(counts[code] for code in ("neu", "hap", "exc", "ang", "sad")) / 640 < 0.65


def test_listeners_name_no_weak_emotion_and_every_neutral_utterance() -> None:
    assert all(line.code == line.emotion for line in LINES if line.emotion == "neu")
    others = [line for line in LINES if line.emotion != "neu"]
    assert {line.code == "xxx" for line in others} == {True, False}
    assert all((line.code == "xxx") == (line.strength < demo.UNDECIDED) for line in others)


def test_sentences_of_the_scripts_are_shared_by_all_speakers_and_independent_of_emotion() -> None:
    """So that neither tells the speaker or the emotion."""
    speakers: dict[object, set[str]] = {}
    emotions: dict[object, set[str]] = {}
    for line in LINES:
        if "script" in line.id:
            speakers.setdefault(line.sentence, set()).add(line.id[4] + line.id.rpartition("_")[2][0])
            emotions.setdefault(line.sentence, set()).add(line.emotion)
    assert len(speakers) == demo.SENTENCES
    assert min(len(found) for found in speakers.values()) >= 5
    assert min(len(found) for found in emotions.values()) >= 5
    improvised = [line.sentence for line in LINES if "impro" in line.id]
    assert len(set(improvised)) == len(improvised)


@pytest.mark.slow
def test_processes_synthesise_the_same_samples_in_any_order() -> None:
    program = (
        "from pcl_jax.corpora import demo; from hashlib import sha256\n"
        "for line in demo.script(3)[4::-2]: print(line.id, sha256(demo.waveform(line).tobytes()).hexdigest())"
    )
    printed = {
        seed: subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed["1"] == printed["2"]
    assert len(set(printed["1"].split())) == 6


def test_a_voice_is_audible_and_does_not_clip() -> None:
    for line in LINES[::97]:
        speech = demo.waveform(line)
        assert speech.dtype == np.int16
        assert 0.6 < len(speech) / 16_000 < 4
        assert 500 < np.abs(speech.astype(int)).max() < 32_700
        assert abs(speech.mean()) < 50


def test_an_angry_voice_is_louder_and_brighter_than_a_sad_one() -> None:
    def level_and_brightness(code: str) -> np.ndarray:
        values = []
        for line in [line for line in LINES if line.code == code][:12]:
            x = demo.waveform(line) / 32_768
            spectrum = np.abs(np.fft.rfft(x)) ** 2
            values.append(
                [np.log10(np.mean(x**2)), np.log10(spectrum[len(spectrum) // 8 :].sum() / spectrum.sum())]
            )
        return np.mean(values, axis=0)

    assert np.all(level_and_brightness("ang") > level_and_brightness("sad"))


def test_the_demo_is_read_like_iemocap_and_is_marked_synthetic(short: None, tmp_path: Path) -> None:
    corpus = read("demo", tmp_path / "demo")
    assert corpus.synthetic
    assert (corpus.name, len(corpus.utterances), corpus.problems) == ("demo", 20, ())
    assert {u.speaker for u in corpus.utterances} == {f"{s}{letter}" for s in range(1, 6) for letter in "FM"}
    assert "SYNTHETIC" in (tmp_path / "demo" / "README.txt").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert read("demo", tmp_path / "demo") == corpus
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == made


def test_an_interrupted_synthesis_leaves_no_file(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak, spoken = demo.waveform, []

    def interrupted(line: demo.Line) -> np.ndarray:
        if len(spoken) == 7:
            raise KeyboardInterrupt
        spoken.append(line)
        assert not (tmp_path / "demo").exists()
        return speak(line)

    monkeypatch.setattr(demo, "waveform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.synthesise(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(demo, "waveform", speak)
    assert len(read("demo", tmp_path / "demo").utterances) == 20


def test_two_concurrent_processes_make_one_demo(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak = demo.waveform

    def overtaken(line: demo.Line) -> np.ndarray:
        monkeypatch.setattr(demo, "waveform", speak)
        demo.synthesise(tmp_path / "demo")
        return speak(line)

    monkeypatch.setattr(demo, "waveform", overtaken)
    demo.synthesise(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(read("demo", tmp_path / "demo").utterances) == 20


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(CorpusError, match="is not the demo; give --root a folder that is empty"):
        read("demo", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_the_demo_of_another_version_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("pcl_jax demo corpus, version 0\n")
    with pytest.raises(CorpusError, match="another version; delete it"):
        read("demo", tmp_path)
