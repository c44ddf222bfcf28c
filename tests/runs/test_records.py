"""Records: whole rows whatever happens to the file; digests that see every change."""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.runs import records
from pcl_jax.runs.records import Record


def record(repeat: int) -> dict:
    made = Record(
        experiment="test", corpus="small", synthetic=False, fold=1, view="mel", title="mel", views=(),
        method="supervised",
        repeat=repeat, seed=0, classes=("a", "b"), epochs=1, best_epoch=1, seconds=0.1, config_digest="c",
        params_digest="p", counts=(1, 2), utterances=4, normalise="fold", protocol="q",
        run=f"run{repeat}", versions={}, device="cpu x 1", settings={}, features={}, recordings="r",
        label_digest="l",
    )  # fmt: skip
    return asdict(made)


def test_rows_of_many_writers_stay_whole(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: records.append(tmp_path, record(i)), range(100)))
    assert sorted(row["repeat"] for row in records.read(tmp_path)) == list(range(100))


def test_a_line_cut_short_is_passed_over_and_the_next_row_stands_alone(tmp_path):
    records.append(tmp_path, record(1))
    with (tmp_path / records.FILE).open("a") as file:
        file.write('{"experiment": "te')
    records.append(tmp_path, record(2))
    assert [row["repeat"] for row in records.read(tmp_path)] == [1, 2]


def test_no_file_is_no_rows(tmp_path):
    assert list(records.read(tmp_path / "nothing")) == []


def test_params_digest_sees_names_shapes_types_and_every_bit_but_not_the_order_of_insertion():
    one = {"a": {"w": np.ones((2, 3), np.float32)}, "b": np.zeros(2, np.float32)}
    same = {"b": np.zeros(2, np.float32), "a": {"w": np.ones((2, 3), np.float32)}}
    assert records.params_digest(one) == records.params_digest(same)
    others = [
        {"a": {"v": one["a"]["w"]}, "b": one["b"]},
        {"a": {"w": one["a"]["w"].reshape(3, 2)}, "b": one["b"]},
        {"a": {"w": one["a"]["w"].astype(np.float64)}, "b": one["b"]},
        {"a": {"w": one["a"]["w"]}, "b": np.array([0, np.float32(1e-45)], np.float32)},
    ]
    assert len({records.params_digest(tree) for tree in (one, *others)}) == 5


def test_a_record_is_plain_json(tmp_path):
    records.append(tmp_path, record(3))
    row = json.loads((tmp_path / records.FILE).read_text())
    assert row["uar"] is None
    assert row["classes"] == ["a", "b"]


FOREIGN = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"{}", b"[1]", b"null", b'{"run": 3}', b'{"other": "tool"}', b"[" * 100_000]),
).map(lambda line: line.replace(b"\n", b" ").replace(b"\r", b" "))


@given(st.lists(st.one_of(st.none(), FOREIGN), max_size=8))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whatever_else_is_in_the_file_the_rows_are_read_and_nothing_else(lines):
    """None stands for a row of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / records.FILE
        for number, line in enumerate(lines):
            if line is None:
                records.append(Path(folder), record(number))
            else:
                with path.open("ab") as file:
                    file.write(line + b"\n")
        found = [row["run"] for row in records.read(Path(folder))]
    assert found == [f"run{number}" for number, line in enumerate(lines) if line is None]
