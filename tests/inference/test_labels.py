"""Labelling tables: no label is lost, and a filled table is a table of the user's own data."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from pcl_jax.corpora import read as read_corpus
from pcl_jax.corpora.utterance import CorpusError
from pcl_jax.inference import labels

NAMES = ("plain.wav", 'a "quoted", name.wav', "sub/ümlaut.wav")


@pytest.fixture
def corpus(tmp_path):
    """A table of three whole files and a segment, one of them labelled."""
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        soundfile.write(tmp_path / name, 0.1 * np.sin(np.arange(16_000) / 9), 16_000)
    rows = [
        "file,speaker,emotion,start,end",
        "plain.wav,anna,sad,,",
        '"a ""quoted"", name.wav",bob,,,',
        "sub/ümlaut.wav,carl,,,",
        "plain.wav,anna,,0.25,0.75",
    ]
    (tmp_path / "mine.csv").write_text("\n".join(rows), "utf-8")
    return read_corpus("table", tmp_path / "mine.csv")


def test_a_filled_table_is_a_table_with_the_same_clips(corpus, tmp_path):
    clips = labels.clips_of(corpus.utterances, tmp_path / "x.csv")
    filled = [replace(clip, emotion=f"e{i}") for i, clip in enumerate(clips)]
    labels.write(tmp_path / "x.csv", filled)
    assert labels.read(tmp_path / "x.csv") == filled
    again = read_corpus("table", tmp_path / "x.csv")
    assert not again.problems
    kept = [(u.id, u.path, u.speaker, u.start_s, u.end_s) for u in again.utterances]
    assert kept == [(u.id, u.path, u.speaker, u.start_s, u.end_s) for u in corpus.utterances]
    assert [u.emotion for u in again.utterances] == ["e0", "e1", "e2", "e3"]


def test_a_table_in_another_folder_finds_the_files(corpus, tmp_path):
    other = tmp_path / "labels" / "x.csv"
    labels.write(other, labels.clips_of(corpus.utterances, other))
    assert {u.path for u in read_corpus("table", other).utterances} == {u.path for u in corpus.utterances}


def test_labels_are_not_overwritten_and_no_other_file_is(tmp_path, corpus):
    table = tmp_path / "x.csv"
    labels.require_unlabelled(table)
    clips = labels.clips_of(corpus.utterances, table)
    labels.write(table, clips)
    labels.require_unlabelled(table)
    labels.write(table, [replace(clips[0], emotion="sad"), *clips[1:]])
    with pytest.raises(CorpusError, match="holds 1 labels"):
        labels.require_unlabelled(table)
    table.write_text("my,notes\n1,2\n")
    with pytest.raises(CorpusError):
        labels.require_unlabelled(table)
    with pytest.raises(CorpusError, match="no labelling table"):
        labels.require_unlabelled(tmp_path / "mine.csv")
    with pytest.raises(CorpusError, match=r"\.csv"):
        labels.require_unlabelled(tmp_path / "x.txt")


def test_joined_labels_count_and_open_clips_are_known(corpus, tmp_path):
    clips = labels.clips_of(corpus.utterances, tmp_path / "x.csv")
    by_id = {clip.id: clip for clip in clips}
    shown = [replace(by_id["sub/ümlaut.wav"], emotion="happy"), by_id['a "quoted", name.wav']]
    labels.write(tmp_path / "x.csv", shown)
    joined, skipped = labels.join(corpus, [tmp_path / "x.csv"])
    assert joined.classes == ("happy", "sad")
    assert {u.id: u.emotion for u in joined.utterances}["sub/ümlaut.wav"] == "happy"
    assert skipped == {'a "quoted", name.wav'}


def test_labels_that_contradict_or_are_for_other_clips_are_refused(corpus, tmp_path):
    clips = labels.clips_of(corpus.utterances, tmp_path / "x.csv")
    sad = next(clip for clip in clips if clip.id == "plain.wav")
    for clip, message in (
        (replace(sad, emotion="happy"), "'happy' here"),
        (replace(sad, id="?"), "no utter"),
    ):
        labels.write(tmp_path / "x.csv", [clip])
        with pytest.raises(CorpusError, match=message):
            labels.join(corpus, [tmp_path / "x.csv"])
    labels.write(tmp_path / "x.csv", [sad, sad])
    with pytest.raises(CorpusError, match="twice"):
        labels.join(corpus, [tmp_path / "x.csv"])
