"""`pcl suggest`: from a table to a labelling table, again and again."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax.commands import suggest
from pcl_jax.commands.flags import Learn, Suggest
from pcl_jax.commands.learn import read_labelled
from pcl_jax.corpora.utterance import CorpusError
from pcl_jax.inference import labels


@pytest.fixture
def command(tmp_path: Path) -> Suggest:
    """Four speakers with six clips each, two of them labelled."""
    rng = np.random.default_rng(0)
    rows = [("file", "speaker", "emotion")]
    for speaker in range(4):
        for clip in range(6):
            name = f"{speaker}-{clip}.wav"
            tone = 0.1 * np.sin(np.arange(8000) * rng.uniform(0.03, 0.3)) + 0.01 * rng.normal(size=8000)
            soundfile.write(tmp_path / name, tone, 16_000)
            rows.append(
                (name, f"speaker{speaker}", ["calm", "angry"][clip] if (speaker, clip) < (0, 2) else "")
            )
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    folders = {"features": tmp_path / "features", "workers": 1}
    return Suggest(table=tmp_path / "mine.csv", number=5, out=tmp_path / "x.csv", views=("mel",), **folders)


def test_rounds_of_suggestions_never_repeat_a_clip(command, tmp_path, capsys):
    assert suggest.suggest(command) == 0
    assert re.search(r"5 clips of [34] speakers: typical", capsys.readouterr().out)
    first = labels.read(command.out)
    assert len(first) == 5
    assert not {clip.id for clip in first} & {"0-0.wav", "0-1.wav"}
    labels.write(command.out, [replace(clip, emotion="calm") for clip in first[:4]] + first[4:])
    with pytest.raises(CorpusError, match="holds 4 labels"):
        suggest.suggest(command)
    more = replace(command, labels=(command.out,), out=tmp_path / "y.csv", number=50)
    assert suggest.suggest(more) == 0
    second = labels.read(more.out)
    assert len(second) == 24 - 2 - 5
    assert not {clip.id for clip in first} & {clip.id for clip in second}


def test_learning_takes_the_labels_of_a_filled_table(command):
    filled = _labelled(command)
    corpus = read_labelled(Learn(corpus="table", root=command.table, labels=(filled,)))
    assert sum(u.emotion is not None for u in corpus.utterances) == 2 + 12
    assert corpus.classes == ("angry", "calm")
    merged = read_labelled(
        Learn(corpus="table", root=command.table, labels=(filled,), targets=("calm", "angry"))
    )
    assert merged.classes == ("calm", "angry")


def test_uncertain_clips_are_suggested_once_labels_are_there(command, capsys):
    table = labels.read(_labelled(command))
    assert len(table) == 12
    assert suggest.suggest(replace(command, labels=(command.table.parent / "known.csv",))) == 0
    assert "least sure of" in capsys.readouterr().out


def _labelled(command: Suggest) -> Path:
    """Write labels of three speakers' clips; return the labelling table."""
    clips = [
        labels.Clip(f"{speaker}-{clip}.wav", f"{speaker}-{clip}.wav", f"speaker{speaker}", emotion=emotion)
        for speaker in range(1, 4)
        for clip, emotion in enumerate(("calm", "angry", "calm", "angry"))
    ]
    path = command.table.parent / "known.csv"
    labels.write(path, clips)
    return path
