"""The user's own table is read completely, or refused with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from pcl_jax.corpora import parse_targets, read
from pcl_jax.corpora.folds import leave_one_session_out
from pcl_jax.corpora.inspect import inspect
from pcl_jax.corpora.table import seconds
from pcl_jax.corpora.utterance import Corpus, CorpusError


@pytest.fixture
def folder(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    for number in range(12):
        write_audio(tmp_path / "audio" / f"{number}.wav", duration_s=0.5)
    return tmp_path


def csv(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_paths_are_relative_to_the_table_and_rows_may_have_no_label(folder: Path) -> None:
    emotions = ["angry", "", "happy", "NaN", "excited", "sad"] * 2
    rows = [f"audio/{i}.wav,s{i % 6},{emotion}" for i, emotion in enumerate(emotions)]
    corpus = read("table", csv(folder, "file,speaker,emotion", *rows))
    assert corpus.problems == ()
    assert {u.id: u.emotion for u in corpus.utterances} == {
        f"audio/{i}.wav": None if emotion in ("", "NaN") else emotion for i, emotion in enumerate(emotions)
    }
    assert corpus.classes == ("angry", "excited", "happy", "sad")
    assert all(u.path.is_file() and u.duration_s == 0.5 and u.end_s is None for u in corpus.utterances)
    # Six speakers in five groups, unlabelled rows among them.
    folds = leave_one_session_out(corpus)
    assert sum(len(fold.test) for fold in folds) == 12


def test_targets_choose_and_merge(folder: Path) -> None:
    rows = [
        f"audio/{i}.wav,{i},{emotion}"
        for i, emotion in enumerate(["angry", "happy", "excited", "sad", "sad"])
    ]
    table = csv(folder, "file,speaker,emotion", *rows)
    corpus = read("table", table, targets=parse_targets(["sad", "happy=happy+excited"]))
    assert [corpus.label(u) for u in corpus.utterances] == [None, 1, 1, 0, 0]
    with pytest.raises(
        CorpusError, match=r"no utterance of table-\w+ is 'hapy'.* it has: angry, excited, happy, sad"
    ):
        read("table", table, targets=parse_targets(["hapy"]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a", "a"], "twice"),
        (["a=b+c", "b"], "'b' twice"),
        (["=a"], "empty"),
        (["a=b+"], "empty"),
        ([""], "empty"),
    ],
)
def test_unclear_targets_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(CorpusError, match=why):
        parse_targets(words)


SEGMENTS = [("0", "NaT"), ("0.1", "0.3"), ("0 days 00:00:00.300000", "0 days 00:00:00.500000"), ("0.4", "")]


def test_segments_as_audformat_writes_them(folder: Path) -> None:
    rows = [f"audio/0.wav,{start},{end},a" for start, end in SEGMENTS]
    corpus = read("table", csv(folder, "file,start,end,speaker", *rows))
    assert [(u.start_s, u.end_s) for u in corpus.utterances] == [
        (0.0, None),
        (0.1, 0.3),
        (0.3, None),
        (0.4, None),
    ]
    assert [u.duration_s for u in corpus.utterances] == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert len({u.id for u in corpus.utterances}) == 4


def test_an_end_rounded_beyond_the_file_is_its_end(folder: Path) -> None:
    corpus = read("table", csv(folder, "file,end,speaker", "audio/0.wav,0.51,a"))
    assert [(u.end_s, u.duration_s) for u in corpus.utterances] == [(None, 0.5)]


def test_parquet_is_the_same_as_csv(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    nanoseconds = [0, 100_000_000, 300_000_000, 400_000_000], [None, 300_000_000, 500_000_000, None]
    columns = {
        "file": ["audio/0.wav"] * 4,
        "start": pa.array(nanoseconds[0], pa.duration("ns")),
        "end": pa.array(nanoseconds[1], pa.duration("ns")),
        "speaker": pa.array(["a"] * 4).dictionary_encode(),
        "emotion": ["sad", None, "sad", "angry"],
    }
    parquet.write_table(pa.table(columns), folder / "table.parquet")
    rows = [
        f"audio/0.wav,{start},{end},a,{emotion}"
        for (start, end), emotion in zip(SEGMENTS, ["sad", "", "sad", "angry"], strict=True)
    ]
    expected = read("table", csv(folder, "file,start,end,speaker,emotion", *rows))
    found = read("table", folder / "table.parquet")
    assert replace(found, name=expected.name) == expected


def test_two_tables_of_one_name_are_two_corpora(folder):
    (folder / "more").mkdir()
    (folder / "more" / "audio").symlink_to(folder / "audio")
    rows = "file,speaker,emotion", "audio/0.wav,a,sad"
    tables = [csv(folder, *rows), csv(folder / "more", *rows)]
    assert len({read("table", table).name for table in tables}) == 2
    assert read("table", tables[0]).name.startswith(tables[0].stem + "-")


def test_no_speaker_column_is_refused_with_the_reason(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"no column 'speaker'; folds need one, because .* trained on"):
        read("table", csv(folder, "file,emotion", "audio/0.wav,sad"))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "path,speaker\nx.wav,1\n", r"no column 'file' \(it has: path, speaker\)"),
        ("a.csv", "file,speaker\n", "no rows"),
        ("a.csv", "", "no column 'file'"),
        ("a.csv", "file,speaker\nx.wav,M\xfcller\n", "UTF-8"),
        ("a.parquet", "file,speaker", "no Parquet table"),
        ("a.xlsx", "PK", "give a .csv or .parquet"),
        ("a.csv", "file,speaker,session\nx.wav,1,7\ny.wav,2,8\n", "names 2 sessions"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=why):
        read("table", tmp_path / name)


def test_sessions_are_taken_as_given_and_names_are_numbered(folder: Path) -> None:
    numbers = csv(folder, "file,speaker,session", *(f"audio/{i}.wav,{i},{5 - i}" for i in range(5)))
    assert [u.session for u in read("table", numbers).utterances] == [5, 4, 3, 2, 1]
    names = csv(folder, "file,speaker,session", *(f"audio/{i}.wav,{i},{'edbca'[i]}" for i in range(5)))
    assert [u.session for u in read("table", names).utterances] == [5, 4, 2, 3, 1]


def test_faulty_rows_are_listed_and_left_out(folder: Path) -> None:
    table = csv(
        folder,
        "file,speaker,start,end,id",
        "audio/0.wav,a,,,fine",
        "audio/1.wav,,,,nobody",
        "audio/2.wav,a,0.3,0.2,backwards",
        "audio/3.wav,a,0.3,9,beyond",
        "audio/4.wav,a,soon,,when",
        "audio/99.wav,a,,,gone",
        "audio/5.wav,a,,,fine",
    )
    corpus = read("table", table)
    assert [u.id for u in corpus.utterances] == ["fine"]
    assert sorted(p.kind for p in corpus.problems) == [
        "duplicate_id", "missing", "no_speaker", "segment", "segment", "segment"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1.5, 1.5),
        ("1.5", 1.5),
        ("0 days 00:00:01.5", 1.5),
        ("1 day 0:0:1", 86_401),
        ("02:03", 123),
        (None, None),
    ],
)
def test_times_are_converted_to_seconds(text: object, expected: float | None) -> None:
    assert seconds(text) == expected


def test_text_that_is_no_time_is_refused() -> None:
    with pytest.raises(CorpusError, match="'soon' is no time"):
        seconds("soon")


def speakers_by_session(corpus: Corpus) -> dict[int, set[str]]:
    sessions: dict[int, set[str]] = {}
    for u in corpus.utterances:
        sessions.setdefault(u.session, set()).add(u.speaker)
    return sessions


@pytest.mark.parametrize(
    ("first", "second"), [("Zoe\u0308", "Zo\u00eb"), ("Anna  B", " Anna B"), ("Anna\u00a0B", "Anna B")]
)
def test_one_name_in_two_spellings_of_unicode_or_space_is_one_speaker(
    folder: Path, first: str, second: str
) -> None:
    rows = [f"audio/{i}.wav,{(first, second)[i % 2] if i < 4 else i},x {i % 2}" for i in range(12)]
    corpus = read("table", csv(folder, "file,speaker,emotion", *rows))
    assert len({u.speaker for u in corpus.utterances}) == 9
    assert corpus.problems == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [("Anna", "anna"), ("1", "01"), ("5", "5.0"), ("spk7", "SPK007"), ("anna\u200b", "anna")],
)
def test_speakers_with_similar_names_stay_in_one_session_and_are_reported(
    folder: Path, first: str, second: str
) -> None:
    rows = [f"audio/{i}.wav,{(first, second)[i % 2] if i < 6 else f'p{i}'}" for i in range(12)]
    corpus = read("table", csv(folder, "file,speaker", *rows))
    (problem,) = corpus.problems
    assert (problem.kind, problem.lost, problem.fatal) == ("similar_names", 0, False)
    assert any({first, second} <= names for names in speakers_by_session(corpus).values())
    # In sessions of the table's own they would be one voice in training and in test.
    rows = [f"{row},{(int(i) % 5) + 1}" for i, row in enumerate(rows)]
    corpus = read("table", csv(folder, "file,speaker,session", *rows))
    assert [(p.kind, p.fatal) for p in corpus.problems] == [("similar_names", True)]
    assert not inspect(corpus).usable
    with pytest.raises(
        CorpusError, match="differ in case, zeros or invisible characters alone, and are in different sess"
    ):
        leave_one_session_out(corpus)


def test_emotions_and_ids_with_similar_names_are_reported(folder: Path) -> None:
    emotions = ["Angry", "ANGRY", "angry ", " angry", "sad", "sad"]
    rows = [f"audio/{i}.wav,{i},{emotion},{i:0{1 + i % 2}d}" for i, emotion in enumerate(emotions)]
    corpus = read("table", csv(folder, "file,speaker,emotion,id", *rows, "audio/6.wav,6,sad,1"))
    assert corpus.classes == ("ANGRY", "Angry", "angry", "sad")
    messages = [p.message for p in corpus.problems]
    assert len(messages) == 2
    assert "the emotions 'ANGRY', 'Angry', 'angry' differ" in messages[0]
    assert "the ids '01', '1' differ" in messages[1]


def test_an_emotion_called_none_is_reported(folder: Path) -> None:
    for word in ("none", "NA"):
        rows = [f"audio/{i}.wav,{i},{(word, 'sad', '', 'NaN')[i % 4]}" for i in range(12)]
        (problem,) = read("table", csv(folder, "file,speaker,emotion", *rows)).problems
        assert problem.message.startswith(f"table.csv: 3 rows have the emotion {word!r}, taken as unlabelled")


def test_speakers_that_are_not_available_are_not_one_person_called_na(folder: Path) -> None:
    rows = [f"audio/{i}.wav,{('Na', 'NA', 'n/a', 'p')[i % 4]}" for i in range(12)]
    corpus = read("table", csv(folder, "file,speaker", *rows))
    assert {u.speaker for u in corpus.utterances} == {"Na", "p"}
    assert corpus.left_out.count == 6


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_are_found_in_either_form_of_unicode_and_with_backslashes(
    tmp_path: Path, write_audio: Callable[..., Path], form: Literal["NFC", "NFD"]
) -> None:
    write_audio(tmp_path / "audio" / normalize(form, "Zo\u00eb.wav"))
    table = csv(tmp_path, "file,speaker", "audio/Zo\u00eb.wav,a", "audio\\Zoe\u0308.wav,b")
    table.write_text(table.read_text().replace("\\Zoe", "/./Zoe"))
    corpus = read("table", table)
    assert len(corpus.utterances) == 2
    write_audio(tmp_path / "audio" / "1.wav")
    assert len(read("table", csv(tmp_path, "file,speaker", "audio\\1.wav,a")).utterances) == 1


def test_every_row_is_an_utterance_or_is_counted_as_lost(folder: Path) -> None:
    (folder / "audio" / "3.wav").write_bytes(b"")
    whole = (folder / "audio" / "4.wav").read_bytes()
    (folder / "audio" / "4.wav").write_bytes(whole[: len(whole) // 2])
    rows = [
        "audio/0.wav,a,,",
        "audio/0.wav,a,,",  # the same row again is no loss
        "audio/1.wav,,,",
        "audio/2.wav,a,0.3,0.2",
        "audio/3.wav,a,,",
        "audio/3.wav,a,0.1,0.2",
        "audio/4.wav,b,,",
        "audio/99.wav,a,,",
        "audio/5.wav,b,soon,",
        ",b,,",
    ]
    corpus = read("table", csv(folder, "file,speaker,start,end", *rows))
    assert [u.id for u in corpus.utterances] == ["audio/0.wav"]
    assert corpus.left_out.count == 8
    assert len(corpus.left_out.lines) == 7  # both parts of an empty file in one line
    assert sorted(p.kind for p in corpus.problems if not p.lost) == ["duplicate_id"]


def test_a_second_row_of_other_content_is_a_loss(folder: Path) -> None:
    rows = ["audio/0.wav,a,sad,x", "audio/1.wav,b,angry,x"]
    corpus = read("table", csv(folder, "file,speaker,emotion,id", *rows))
    assert corpus.left_out.count == 1


def test_no_utterance_at_all_is_an_error_that_counts_the_reasons(folder: Path) -> None:
    for number in range(3):
        (folder / "audio" / f"{number}.wav").write_text("version https://git-lfs.github.com/spec/v1\noid")
    rows = [f"audio/{i}.wav,a" for i in (0, 1, 2, 77)]
    with pytest.raises(
        CorpusError, match=r"no utterance that can be used: 3 unreadable, 1 missing; .*git lfs"
    ):
        read("table", csv(folder, "file,speaker", *rows))


def test_one_class_is_no_task(folder: Path) -> None:
    rows = [f"audio/{i}.wav,{i},{'sad' if i % 2 else 'happy'}" for i in range(12)]
    table = csv(folder, "file,speaker,emotion", *rows)
    for words in (["sad"], ["one=sad+happy"]):
        with pytest.raises(CorpusError, match=r"one class: there is nothing to tell apart; give two or more"):
            read("table", table, targets=parse_targets(words))
    single = read(
        "table", csv(folder, "file,speaker,emotion", *(row.replace("happy", "sad") for row in rows))
    )
    assert "one_class" in {p.kind for p in inspect(single).problems}
