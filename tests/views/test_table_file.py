"""A feature table gives the features that its author meant, or one line that says what is wrong."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pcl_jax.corpora.utterance import Utterance
from pcl_jax.views.catalogue import catalogue, choose
from pcl_jax.views.table import TableView
from pcl_jax.views.table_file import read_features


def table(folder: Path, columns: dict[str, list], suffix: str) -> Path:
    """Write columns to a CSV (as people do: plain text) or Parquet file."""
    path = folder / f"features{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return path


FILES = ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_of_numbers_are_features_and_the_others_are_named(tmp_path, suffix):
    columns = {"File": FILES, "f1": [1, 2, 3], "emotion": ["sad", "happy", "sad"], " f 2": [0.5, 1e-3, -2.0]}
    found = read_features(table(tmp_path, columns, suffix))
    assert found.names == ("f1", "f 2")
    assert found.left_out == ("emotion",)
    assert found.index_columns == {"file": FILES}
    np.testing.assert_array_equal(found.values, np.float32([[1, 0.5], [2, 1e-3], [3, -2]]))


def test_index_cells_are_text_however_much_they_look_like_numbers(tmp_path):
    path = table(tmp_path, {"id": ["000", "1e3", "true"], "start": ["1", "2", "3"], "f": [1, 2, 3]}, ".csv")
    assert read_features(path).index_columns == {"id": ["000", "1e3", "true"], "start": ["1", "2", "3"]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "name",
    [
        *("", "Unnamed: 0", "index", "__index_level_0__", "level_0"),
        *("label", "LABEL", "emotion_id", "class", "class no", "target", "valence"),
        *("speaker", "Speaker_ID", "session", "fold", "gender"),
        *("emotionLabel", "speakerID", "spk_id", "ground_truth", "y", "gold", "rownum"),
    ],
)
def test_row_numbers_labels_and_speakers_are_no_features(tmp_path, suffix, name):
    path = table(tmp_path, {"file": FILES, "f": [1.0, 2, 3], name: [0, 1, 2]}, suffix)
    with pytest.raises(ValueError, match=rf"the column {name!r} looks like a row number, a label or a sp"):
        read_features(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_that_numbers_the_rows_is_no_feature_whatever_its_name(tmp_path, suffix):
    files = [f"{i}.wav" for i in range(12)]
    numbers = [7, 3, 5, 4, 6, 8, 9, 10, 11, 12, 13, 14]
    with pytest.raises(ValueError, match="the column 'X' looks like a row number"):
        read_features(table(tmp_path, {"file": files, "X": numbers, "f": [0.5] * 12}, suffix))
    repeated = table(tmp_path, {"file": files, "X": [3, *numbers[1:]]}, suffix)
    assert read_features(repeated).names == ("X",)


def test_large_integers_are_rounded_as_other_numbers_are(tmp_path):
    path = table(tmp_path, {"file": FILES, "f": [2**63 - 1, 2**60 + 1, 3]}, ".csv")
    np.testing.assert_array_equal(read_features(path).values[:, 0], np.float32([2**63, 2**60, 3]))


def utterances(count: int = 12) -> list[Utterance]:
    emotions = ("sad", "happy", None)
    return [
        Utterance(f"u{i}", Path(f"{i}.wav"), i % 4, f"s{i % 4}", emotions[i % 3], 1.0) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("what", "numbers"),
    [
        ("emotion", [4, 2, ""]),
        ("emotion", [1, 0, 0]),
        ("speaker", [3, 1, 2, 0]),
    ],
)
def test_a_column_that_tells_labels_or_speakers_is_refused_whatever_its_name(tmp_path, what, numbers):
    ids = [u.id for u in utterances()]
    cells = [numbers[i % len(numbers)] for i in range(12)]
    columns = {"id": ids, "f": [i % 5 for i in range(12)]}
    TableView("m", table(tmp_path, columns, ".csv")).require_no_labels(utterances())
    view = TableView("m", table(tmp_path, columns | {"q": cells}, ".csv"))
    with pytest.raises(ValueError, match=f"the column 'q' has one number for each {what}"):
        view.require_no_labels(utterances())


def test_a_row_whose_id_and_file_are_of_two_utterances_is_refused(tmp_path):
    columns = {"id": ["u0", "u1"], "file": ["C:\\old\\0.flac", "/elsewhere/2.wav"], "f": [0.5, 1.5]}
    view = TableView("m", table(tmp_path, columns, ".csv"))
    first, second = utterances(2)
    assert view.precomputed(first).tolist() == [0.5]
    with pytest.raises(
        ValueError, match=r"row 2: the id 'u1' is that of 1\.wav, but the file is '/elsewhere/2\.wav'"
    ):
        view.precomputed(second)


def test_features_whose_names_hold_such_a_word_and_others_are_taken(tmp_path):
    names = [
        "F0semitoneFrom27.5Hz_sma3nz_amean",
        "equivalentSoundLevel_dBp",
        "spectral_index",
        "0",
        "wav2vec2-11",
    ]
    path = table(tmp_path, {"file": FILES} | {name: [1.0, 2.0, 3.0] for name in names}, ".csv")
    assert read_features(path).names == tuple(names)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["1.5", "2", "x"], r"column 'f', row 3 is 'x', which is no number"),
        (["1.5", "?", "2e-3"], r"column 'f', row 2 is '\?', which is no number"),
        (["0,5", "1,5", "2,5"], r"column 'f', row 1 is '0,5', which is no number"),
        (["1", "1_0", "2"], r"row 2 is '1_0'"),
        (["1", "2", "inf"], r"column 'f', row 3 is inf: features must be finite"),
        (["1", "-1e39", "2"], r"column 'f', row 2 is -1e\+39: features must be finite"),
    ],
)  # fmt: skip
def test_a_cell_among_numbers_that_is_none_is_named(tmp_path, suffix, cells, says):
    with pytest.raises(ValueError, match=says):
        read_features(table(tmp_path, {"file": FILES, "f": cells, "g": [1, 2, 3]}, suffix))


def test_blank_cells_are_values_that_are_missing(tmp_path):
    found = read_features(table(tmp_path, {"file": FILES, "f": ["1", "", "NaN"]}, ".csv"))
    np.testing.assert_array_equal(found.values, np.float32([[1], [np.nan], [np.nan]]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('id,f\na,1\n"b,2\nc,3\nd",4\n', r"column 'id', row 2: the cell holds a line break.*stray quote"),
        ('id,f\na,1\nb,"2\nc,3\nd,4"\n', r"column 'f', row 2: the cell holds a line break"),
        ("id,f\na,1\nb,2,3\n", "cannot be read"),
        ("id,f\na,1\nb\n", "cannot be read"),
        ("id;f\na;1\n", r"no column 'id' or 'file' .*separated by commas, it has 'id;f'"),
        ("id,f\n", "has no rows"),
        ("id,f,f\na,1,2\n", "two columns of the name 'f'"),
        ("id,word\na,b\n", "no column of numbers"),
        ("", "cannot be read"),
    ],
)
def test_a_table_that_is_torn_or_empty_is_one_line(tmp_path, text, says):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_choosing_a_table_says_which_columns_are_its_features(tmp_path):
    columns = {"file": FILES, "word": ["x", "y", "z"]} | {f"f{i}": [1.0, 2.0, 3.0] for i in range(20)}
    path = table(tmp_path, columns, ".csv")
    choice = choose(catalogue(checkpoints=["untrained"]), ("mel", f"mine={path}"), ())
    assert choice.remark == (
        f"the view mine: 20 feature columns of {path}: f0, f1, f2, f3, f4, ...; "
        "without numbers, so left out: word"
    )
    with pytest.raises(ValueError, match=r"the view mine: there is no table .*none\.csv"):
        choose(catalogue(), (f"mine={tmp_path / 'none.csv'}",), ())
