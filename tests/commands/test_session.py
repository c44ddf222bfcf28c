"""Session of commands and experiments: nothing left out in silence, no test speaker in training."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax.commands import features, session, train
from pcl_jax.commands.flags import Extract, Pretrain
from pcl_jax.corpora.utterance import CorpusError

VIEWS = ("mel", "egemaps")


@pytest.fixture
def command(tmp_path: Path) -> Pretrain:
    """Ten speakers, two emotions, half a second of tone each, as a table."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(10):
        for emotion in ("calm", "angry"):
            name = f"{speaker}-{emotion}.wav"
            tone = 0.1 * np.sin(np.arange(8000) * rng.uniform(0.05, 0.1)) + 0.01 * rng.normal(size=8000)
            soundfile.write(tmp_path / name, tone, 16_000)
            rows.append((name, f"speaker{speaker}", emotion))
    write(tmp_path / "mine.csv", rows)
    folders = {"features": tmp_path / "features", "runs": tmp_path / "runs"}
    return Pretrain(corpus="table", root=tmp_path / "mine.csv", workers=1, **folders)


def write(table: Path, rows: list, head=("file", "speaker", "emotion")) -> None:
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def test_the_third_view_of_the_demo_is_ours_and_trained_and_that_of_real_speech_is_the_papers(command):
    views = session.choose_views(Pretrain(corpus="demo"), ())
    assert views["wav2vec2"].title == "wav2vec2 (tiny, ours, synthetic voices)"
    named = session.choose_views(replace(command, speech_model=("untrained",)), ())
    assert named["wav2vec2"].title == "wav2vec2 (untrained stand-in)"


def test_files_that_are_missing_stop_a_command_or_are_counted_in_every_record(command, capsys):
    assert command.root is not None
    for speaker in (3, 4):
        (command.root.parent / f"{speaker}-calm.wav").unlink()
    with pytest.raises(
        CorpusError, match=r"2 of 20 utterances are left out: .*3-calm\.wav.*--on-bad-audio skip"
    ):
        session.open_runner(command, VIEWS, "test")
    assert not command.features.exists()
    runner = session.open_runner(replace(command, on_bad_audio="skip"), VIEWS, "test")
    assert "2 of 20 utterances are left out" in capsys.readouterr().err
    assert len(runner.corpus.utterances) == 18
    assert runner.corpus.left_out.count == 2


def test_a_recording_of_two_speakers_is_refused(command):
    assert command.root is not None
    folder = command.root.parent
    shutil.copy(folder / "0-calm.wav", folder / "9-calm.wav")
    with pytest.raises(CorpusError, match="one recording is"):
        session.open_runner(command, VIEWS, "test")
    with pytest.raises(CorpusError, match="one recording is"):
        features.extract(Extract(corpus="table", root=command.root, features=command.features, workers=1))
    assert not command.features.exists()


def test_an_extra_corpus_with_a_part_of_a_recording_of_this_one_is_refused(command):
    """Another segment of the same file has another digest; the file has not."""
    assert command.root is not None
    other = command.root.parent / "other.csv"
    write(other, [("0-calm.wav", "nobody", "0.05")], head=("file", "speaker", "start"))
    with pytest.raises(CorpusError, match="from the same recording"):
        session.open_runner(command, VIEWS, "test", extra_corpora=[f"table={other}"])


def test_what_an_extra_corpus_lacks_stops_a_command_or_is_said_and_recorded(command, capsys):
    assert command.root is not None
    folder = command.root.parent
    for name, seed in (("x.wav", 1), ("y.wav", 2)):
        noise = np.random.default_rng(seed).normal(size=8000)
        soundfile.write(folder / name, 0.01 * noise, 16_000)
    soundfile.write(folder / "z.wav", np.zeros(8000), 16_000)  # silent: found when it is decoded
    other = folder / "other.csv"
    write(
        other,
        [(name, "nobody") for name in ("x.wav", "y.wav", "z.wav", "gone.wav")],
        head=("file", "speaker"),
    )
    with pytest.raises(CorpusError, match=r"1 of 4 utterances are left out: .*gone\.wav"):
        session.open_runner(command, ("mel",), "test", extra_corpora=[f"table={other}"])
    command = replace(command, on_bad_audio="skip")
    runner = session.open_runner(command, ("mel",), "test", extra_corpora=[f"table={other}"])
    assert "1 of 4 utterances are left out" in capsys.readouterr().err
    (name,) = runner.extra_corpora
    assert list(runner.skipped) == [f"{name}: z.wav"]
    assert runner.lacking == 2
    with pytest.raises(session.UsageError, match="already"):
        session.open_runner(command, ("mel",), "test", extra_corpora=2 * [f"table={other}"])


def test_remarks_on_a_corpus_are_shown_by_every_command(command, capsys):
    """Three spellings of a class are three classes: whoever did not mean that has to know."""
    assert command.root is not None
    text = command.root.read_text()
    command.root.write_text(text.replace("speaker0,calm", "speaker0,Calm"))
    session.read_usable(command)
    shown = " ".join(capsys.readouterr().err.split())
    assert "1 similar_names; the first: mine.csv: the emotions 'Calm', 'calm' differ in case" in shown


def test_a_batch_larger_than_a_fold_is_refused_before_features_and_leaves_no_folder(command):
    command = replace(command, views=("mel", "egemaps"))
    with pytest.raises(CorpusError, match="the fold has 12 training utterances, fewer than one batch of 128"):
        train.pretrain(command)
    assert not command.features.exists()
    # The runner refuses it too: a folder would later count as a run that was stopped.
    runner = session.open_runner(command, ("mel",), "test")
    with pytest.raises(CorpusError, match="fewer than one batch"):
        runner.pretrain(replace(runner.pretraining(1), views=("mel", "mel")))
    assert not list(command.runs.rglob("run.json"))
