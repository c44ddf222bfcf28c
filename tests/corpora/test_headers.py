"""All audio of a folder is found, through links too, and measured or named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pcl_jax.corpora.headers import audio_files, audio_problems, measure
from pcl_jax.corpora.utterance import CorpusError

WriteAudio = Callable[..., Path]


def test_linked_folders_are_entered_once_whatever_their_cycles(
    tmp_path: Path, write_audio: WriteAudio
) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    for path in (root / "a" / "1.wav", store / "b" / "2.flac", store / "b" / "c" / "3.WAV"):
        write_audio(path)
    os.symlink(store / "b", root / "linked")
    os.symlink(root, store / "b" / "c" / "up")
    os.symlink(root, root / "a" / "itself")
    os.symlink(store / "b", root / "again")
    os.symlink(store / "b" / "2.flac", root / "file.flac")
    found = [str(path.relative_to(root)) for path in audio_files(root)]
    assert found == ["a/1.wav", "again/2.flac", "again/c/3.WAV", "file.flac"]


def test_a_link_to_audio_that_is_gone_is_missing_and_not_absent(tmp_path: Path) -> None:
    os.symlink(tmp_path / "nowhere.wav", tmp_path / "1.wav")
    (path,) = audio_files(tmp_path)
    durations, faults = measure([path])
    assert durations == {}
    (problem,) = audio_problems(faults, [path, path])
    assert (problem.kind, problem.lost) == ("missing", 2)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match="locked cannot be read"):
        audio_files(tmp_path)
