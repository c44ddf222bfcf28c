"""A feature table gives the features that its author meant, or one line that says what is wrong."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pcl_jax.views.catalogue import catalogue, choose
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
    ],
)
def test_row_numbers_labels_and_speakers_are_no_features(tmp_path, suffix, name):
    path = table(tmp_path, {"file": FILES, "f": [1.0, 2, 3], name: [0, 1, 2]}, suffix)
    with pytest.raises(ValueError, match=rf"the column {name!r} looks like a row number, a label or a sp"):
        read_features(path)


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
