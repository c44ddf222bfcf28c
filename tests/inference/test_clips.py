"""Clips: files, folders, tables and windows; what cannot be used is one line."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pcl_jax.inference.clips import Recording, Window, cut, read_recordings
from tests.inference.conftest import tone


@given(st.floats(0.1, 500), st.floats(0.5, 20), st.floats(0.25, 20))
def test_windows_lie_within_the_recording_reach_its_end_and_leave_no_gap_where_they_overlap(
    total, length, hop
):
    starts = list(Window(length, hop).starts(total))
    assert starts[0] == 0
    assert all(start >= 0 for start in starts)
    assert starts == sorted(starts)
    ends = [min(start + length, total) for start in starts]
    assert ends[-1] == pytest.approx(total, abs=0.021)
    assert all(start + length <= total + 1e-6 for start in starts) or len(starts) == 1
    if hop <= length:
        assert all(after <= before + length + 1e-6 for before, after in itertools.pairwise(starts))


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", tone(number, 32_000), 16_000)
    return tmp_path


def write(path: Path, rows: list) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_files_folders_and_tables_are_recordings_once_each_in_order(audio):
    segment = ("0.wav", "0.5", "0 days 00:00:01.5", "anna")
    table = write(audio / "t.csv", [("file", "start", "end", "who"), segment, ("1.wav", "", "", "")])
    found, faults = read_recordings([audio / "2.wav", table, audio, audio / "2.wav"], "Who")
    assert faults == []
    assert found == [
        Recording(str(audio / "2.wav"), audio / "2.wav"),
        Recording("0.wav", audio / "0.wav", 0.5, 1.5, "anna"),
        Recording("1.wav", audio / "1.wav"),
        Recording(str(audio / "0.wav"), audio / "0.wav"),
        Recording(str(audio / "1.wav"), audio / "1.wav"),
    ]
    clips = cut(found, None, audio)
    assert [u.duration_s for u in clips.corpus.utterances] == [2.0, 1.0, 2.0, 2.0, 2.0]
    assert [clips.segment(i) for i in range(2)] == [(0, 2.0), (0.5, 1.5)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("file", "start", "end"), ("0.wav", "soon", "")], "'soon' is no time"),
        ([("file", "start", "end"), ("0.wav", "5", "9")], "5 s to 9 s is not inside"),
        ([("file", "start", "end"), ("0.wav", "-1", "1")], "not inside"),
        ([("file", "start", "end"), ("0.wav", "1", "0.5")], "not inside"),
        ([("file", "start", "end"), ("0.wav", "inf", "")], "not inside"),
        ([("file",), ("",), ("0.wav",)], "has no rows"),
        ([("file", "x"), ("", "1"), ("0.wav", "1")], "row 1: no file"),
        ([("file",), ("../../etc/passwd",)], "does not exist"),
        ([("path",), ("0.wav",)], "no column 'file'"),
        ([("file",)], "no rows"),
    ],
)
def test_a_row_that_cannot_be_meant_is_one_line_and_the_others_are_done(audio, rows, says):
    found, faults = read_recordings([write(audio / "t.csv", rows), audio / "1.wav"])
    clips = cut(found, None, audio)
    lines = [*faults, *clips.faults]
    if says != "has no rows":
        assert len(lines) == 1
        assert says in lines[0]
    assert all("\n" not in line for line in lines)
    assert clips.recordings[-1].path == audio / "1.wav"


def test_any_bytes_as_a_table_are_lines(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(30):
        table = tmp_path / f"{number}{('.csv', '.parquet')[number % 2]}"
        table.write_bytes(rng.bytes(int(rng.integers(200))))
        found, faults = read_recordings([table])
        assert found == []
        assert [line.count("\n") for line in faults] == [0]


def test_windows_of_a_format_without_seeking_come_from_a_copy_and_hear_the_same(tmp_path):
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    from pcl_jax.audio import read

    wave = np.concatenate([tone(number, 32_000) for number in range(6)])
    path = tmp_path / "long.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clips = cut([Recording("long.m4a", path)], Window(1.0, 0.5), tmp_path / "work")
    assert len(clips.corpus.utterances) in (23, 24)  # the encoder pads
    whole = read(path)
    for utterance in clips.corpus.utterances[3:20:5]:
        assert utterance.path != path
        part = read(utterance.path, start_s=utterance.start_s, end_s=utterance.end_s)
        start = round(utterance.start_s * 16_000)
        np.testing.assert_allclose(part, whole[start : start + len(part)], atol=1e-6)
