"""No cell of a table is shifted, swallowed or guessed."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.corpora import read
from pcl_jax.corpora.rows import read_rows
from pcl_jax.corpora.spelling import key, tidy
from pcl_jax.corpora.utterance import Corpus, CorpusError


def write(folder: Path, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


GOOD = [f"{i}.wav,s{i},sad" for i in range(9)]


@pytest.mark.parametrize(
    ("row", "bad", "reason"),
    [
        (3, '"3.wav,s3,sad', "row 4"),  # swallows the rest
        (3, '3.wav,s3,"sad', "row 4"),
        (3, '"3".wav,s3,sad', r"row 4 .*expected after"),
        (3, "3.wav,Oh, no,s3,sad", r"row 4 \(line 5\) has 5 cells, the header 3"),
        (3, "3.wav,s3,sad,", r"row 4 \(line 5\) has 4 cells, the header 3"),
        (8, "8.wav,s8", r"row 9 \(line 10\) has 2 cells, the header 3"),
        (3, '3.wav,"s\n3",sad', r"row 4 \(line 6\) has a cell with a line break"),
        (3, '3.wav,s3,"sad\n"', r"row 4 \(line 6\) has a cell with a line break"),
    ],
)
def test_a_malformed_row_is_refused_by_its_number(tmp_path: Path, row: int, bad: str, reason: str) -> None:
    lines = [*GOOD[:row], bad, *GOOD[row + 1 :]]
    with pytest.raises(CorpusError, match=reason) as caught:
        read_rows(write(tmp_path, "file,speaker,emotion", *lines))
    assert str(caught.value).isprintable()


def test_rows_between_two_stray_quotes_are_not_swallowed(tmp_path: Path) -> None:
    lines = [*GOOD]
    lines[2], lines[6] = '"2.wav,s2,sad', '6.wav,s6,sad"'
    with pytest.raises(CorpusError, match=r"row 3 \(line 8\) has 1 cells"):
        read_rows(write(tmp_path, "file,speaker,emotion", *lines))
    with pytest.raises(CorpusError, match="header has a line break"):
        read_rows(write(tmp_path, 'file,speaker,emotion,"note', *GOOD, '9.wav,s9,sad,"'))


def test_many_malformed_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="; and 4 more rows"):
        read_rows(write(tmp_path, "file,speaker,emotion", *(f"{line},x" for line in GOOD)))


def test_well_formed_quotes_are_read(tmp_path: Path) -> None:
    table = write(tmp_path, "note,file,speaker", '"Oh, ""no""",1.wav,a', "", ",,", "it's 5\" tall,2.wav,b")
    assert read_rows(table)[1] == [{"file": "1.wav", "speaker": "a"}, {"file": "2.wav", "speaker": "b"}]


@pytest.mark.parametrize(
    "header", ["File,SPEAKER, emotion", "\ufefffile , speaker,Emotion", "file,speaker,\u00a0emotion"]
)
def test_headers_are_matched_without_case_and_spaces(tmp_path: Path, header: str) -> None:
    columns, rows = read_rows(write(tmp_path, header, *GOOD))
    assert columns == {"file", "speaker", "emotion"}
    assert rows[0] == {"file": "0.wav", "speaker": "s0", "emotion": "sad"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("file,speaker,label", r"no column 'emotion' \(it has: file, speaker, label\); rename 'label'"),
        ("file,speaker,Emotoin", "rename 'emotoin' to 'emotion'"),
        ("file,Speaker ID,emotion", "rename 'speaker id' to 'speaker'"),
        ("file,speaker,onset", "rename 'onset' to 'start'"),
        ("filename,speaker,emotion", "rename 'filename' to 'file'"),
        ("file,speaker,File", "2 columns 'file'"),
        ("file;speaker;emotion", "save it with commas, not ';'"),
        ("file\tspeaker\temotion", r"save it with commas, not '\\t'"),
    ],
)
def test_a_column_with_another_name_is_not_ignored(tmp_path: Path, header: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        read_rows(write(tmp_path, header, *GOOD))


def test_columns_of_other_content_are_ignored(tmp_path: Path) -> None:
    columns, _ = read_rows(write(tmp_path, "file,speaker,gender,transcript,duration", "1.wav,a,f,hi,2"))
    assert columns == {"file", "speaker"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("file,speaker\n1.wav,Zo\u00eb\n".encode(encoding))
    with pytest.raises(CorpusError, match="no CSV in UTF-8"):
        read_rows(path)


def test_names_have_one_form() -> None:
    assert tidy("Zoe\u0308") == tidy("\u00a0Zo\u00eb ") == "Zo\u00eb"
    assert key("Anna 01") == key("ANNA  1") == key("\u200banna\u00a001")
    assert key("a10") != key("a1")
    assert key("stra\u00dfe") == key("STRASSE")


# Fuzzing. Audio files for the tables below, made once.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, 800), 16_000)
    return folder


def attempt(path: Path) -> Corpus | CorpusError:
    """Read a table; any exception but `CorpusError` fails the test."""
    try:
        return read("table", path)
    except CorpusError as error:
        return error


# Anything but line breaks, and the characters that no UTF-8 file holds.
_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Zl", "Zp"], exclude_characters="\0\n\r\v\f\x1c\x1d\x1e\x85"),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), _NAMES, _NAMES, _NAMES), min_size=1, max_size=6),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
)
def test_any_well_formed_table_is_read_whole(folder: Path, rows, quoting, end, bom) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerow(["id", "file", "speaker", "emotion"])
    writer.writerows([id, f"{file}.wav", speaker, emotion] for file, id, speaker, emotion in rows)
    path = folder / "whole.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    corpus = attempt(path)
    blank = {"", "nat", "nan", "none", "null", "<na>"}
    expected = {}
    for file, id, speaker, emotion in rows:
        if tidy(speaker).lower() not in blank:
            name = tidy(id) if tidy(id).lower() not in blank else f"{file}.wav"
            label = None if tidy(emotion).lower() in blank else tidy(emotion)
            expected.setdefault(name, (f"{file}.wav", tidy(speaker), label))
    if not expected:
        assert isinstance(corpus, CorpusError)
        return
    assert isinstance(corpus, Corpus)
    assert {u.id: (u.path.name, u.speaker, u.emotion) for u in corpus.utterances} == expected
    repeated = sum(p.kind == "duplicate_id" and not p.lost for p in corpus.problems)
    assert len(expected) + corpus.left_out.count + repeated == len(rows)


_TABLE = b"file,speaker,emotion,start,end\n" + b"".join(
    b"%d.wav,s%d,%s,,%s\n" % (i % 4, i, (b"sad", b"angry")[i % 2], (b"", b"0.04")[i % 2]) for i in range(8)
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(_TABLE)),
            st.integers(0, 3),
            st.sampled_from(
                [b'"', b",", b"\n", b"\r", b";", b"\0", b"\xff", b"-1", b"nan", b"1e999", b" ", b""]
            )
            | st.binary(max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_table_loses_no_row_silently(folder: Path, edits) -> None:
    """Every line of the file is an utterance, or counted as lost; or the table is refused in one line."""
    content = bytearray(_TABLE)
    for offset, removed, inserted in edits:
        content[offset : offset + removed] = inserted
    path = folder / "damaged.csv"
    path.write_bytes(content)
    corpus = attempt(path)
    if isinstance(corpus, CorpusError):
        assert str(path) in str(corpus) or "table" in str(corpus)
        assert str(corpus).isprintable()
        return
    assert all(problem.message.isprintable() for problem in corpus.problems)
    text = content.decode("utf-8-sig")
    lines = [
        line
        for line in re.split(r"\r\n|\r|\n", text)
        if any(cell.strip() for cells in csv.reader([line]) for cell in cells)
    ]
    repeated = sum(p.kind == "duplicate_id" and not p.lost for p in corpus.problems)
    assert len(corpus.utterances) + corpus.left_out.count + repeated == len(lines) - 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    cut=st.floats(0, 1),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), max_size=3),
)
def test_a_damaged_parquet_table_is_read_or_refused_in_one_line(folder: Path, cut: float, edits) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "damaged.parquet"
    parquet.write_table(pa.table({"file": ["0.wav", "1.wav"], "speaker": ["a", "b"]}), path)
    content = bytearray(path.read_bytes())
    for offset, values in edits:
        content[offset : offset + len(values)] = values
    path.write_bytes(content[: int(len(content) * (1 - cut)) or None])
    corpus = attempt(path)
    assert isinstance(corpus, Corpus) or str(corpus).isprintable()
