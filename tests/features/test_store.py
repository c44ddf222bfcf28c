"""The feature store: what was written is read, whole, whatever happened."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.features import store
from pcl_jax.features.store import Row, StoreError, Writer
from tests.features.parts import append

DESCRIBE = {"dtype": "float32", "bands": 4}


def row(id: str, shape: tuple[int, ...] = (3, 4), audio: str = "aa", seed: int = 0) -> Row:
    return Row(id, audio, np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def same(opened: store.Store, rows: list[Row]) -> None:
    assert set(opened.ids) == {r.id for r in rows}
    for r in rows:
        assert opened[r.id].shape == r.values.shape
        np.testing.assert_array_equal(opened[r.id], r.values)
        assert opened.audio_digest(r.id) == r.audio_digest


def test_reads_what_was_written(tmp_path):
    rows = [row("a"), row("b", (7, 4), seed=1), row("c", (1, 4), seed=2)]
    append(tmp_path / "s", "mel", DESCRIBE, rows[:2])
    append(tmp_path / "s", "mel", DESCRIBE, rows[2:])
    opened = store.open(tmp_path / "s")
    same(opened, rows)
    assert opened.ids == ("a", "b", "c")
    assert (len(opened), "a" in opened, "z" in opened, dict(opened).keys() == {"a", "b", "c"}) == (
        3,
        True,
        False,
        True,
    )
    assert opened.metadata["view"] == "mel"
    assert opened.metadata["describe"] == DESCRIBE
    assert opened.metadata["versions"]["numpy"] == np.__version__
    assert opened.verify() == []
    with pytest.raises(KeyError):
        opened["z"]


@given(
    shapes=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    trailing=st.sampled_from([(4,), (3, 2)]),
    dtype=st.sampled_from(["float16", "float32"]),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_dtype(tmp_path_factory, shapes, trailing, dtype):
    folder = tmp_path_factory.mktemp("s")
    rows = [row(str(i), (t, *trailing), seed=i) for i, t in enumerate(shapes)]
    rows = [r._replace(values=r.values.astype(dtype)) for r in rows]
    append(folder, "v", {"dtype": dtype}, rows)
    opened = store.open(folder)
    same(opened, rows)
    assert opened["0"].dtype == dtype
    values, lengths = opened.packed([r.id for r in reversed(rows)])
    assert lengths.tolist() == shapes[::-1]
    np.testing.assert_array_equal(values, np.concatenate([r.values for r in reversed(rows)]))
    buffer = np.ones((40, *trailing), dtype)
    again, _ = opened.packed([r.id for r in reversed(rows)], out=buffer)
    assert again.base is buffer
    np.testing.assert_array_equal(again, values)
    assert (buffer[len(values) :] == 1).all()


def test_a_buffer_that_does_not_fit_is_refused(tmp_path):
    append(tmp_path, "mel", DESCRIBE, [row("a", (3, 4)), row("b", (2, 4))])
    for wrong in (np.zeros((4, 4), np.float32), np.zeros((9, 5), np.float32)):
        with pytest.raises(ValueError, match=r"[Ss]hape|size"):
            store.open(tmp_path).packed(["a", "b"], out=wrong)
    with pytest.raises(TypeError, match="float16"):
        store.open(tmp_path).packed(["a", "b"], out=np.zeros((9, 4), np.float16))


def test_values_are_mapped_and_read_only(tmp_path):
    append(tmp_path, "mel", DESCRIBE, [row("a")])
    values = store.open(tmp_path)["a"]
    assert not values.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_values_are_rounded_to_the_described_dtype(tmp_path):
    append(tmp_path, "v", {"dtype": "float16"}, [row("a")])
    opened = store.open(tmp_path)["a"]
    np.testing.assert_array_equal(opened, row("a").values.astype(np.float16))


def test_one_vector_per_utterance_packs_to_a_matrix_without_lengths(tmp_path):
    rows = [row("a", (88,)), row("b", (88,), seed=1)]
    append(tmp_path, "egemaps", DESCRIBE, rows)
    values, lengths = store.open(tmp_path).packed(["b", "a", "b"])
    assert lengths.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(values, np.stack([rows[1].values, rows[0].values, rows[1].values]))


def test_nothing_packed_keeps_the_trailing_shape(tmp_path):
    append(tmp_path, "mel", DESCRIBE, [row("a", (3, 4, 5))])
    values, lengths = store.open(tmp_path).packed([])
    assert (values.shape, values.dtype, lengths.shape) == ((0, 4, 5), np.float32, (0,))


def test_nan_is_kept(tmp_path):
    values = np.array([1.0, np.nan, np.inf], np.float32)
    append(tmp_path, "egemaps", DESCRIBE, [Row("a", "aa", values)])
    np.testing.assert_array_equal(store.open(tmp_path)["a"], values)


def test_odd_ids(tmp_path):
    ids = ["Ses01", "ses01", "SES01", "größe/../x", "名前 \n\t", "", "🙂", "a" * 5000, "é", "e\u0301"]
    rows = [row(id, seed=i) for i, id in enumerate(ids)]
    append(tmp_path, "mel", DESCRIBE, rows)
    same(store.open(tmp_path), rows)


def test_newer_row_wins(tmp_path):
    append(tmp_path, "mel", DESCRIBE, [row("a"), row("b")])
    append(tmp_path, "mel", DESCRIBE, [row("a", (5, 4), audio="bb", seed=3)])
    same(store.open(tmp_path), [row("a", (5, 4), audio="bb", seed=3), row("b")])


def test_no_rows(tmp_path):
    append(tmp_path / "s", "mel", DESCRIBE, [])
    opened = store.open(tmp_path / "s")
    assert (len(opened), opened.ids, opened.metadata) == (0, (), {})
    assert opened.packed([])[0].size == 0
    with pytest.raises(StoreError, match="extract them first"):
        store.open(tmp_path / "nothing")


def test_place_is_named_by_everything_that_changes_a_value(tmp_path):
    places = [
        store.place(tmp_path, "emodb", "mel", describe)
        for describe in (
            DESCRIBE,
            dict(reversed(DESCRIBE.items())),
            DESCRIBE | {"bands": 5},
            DESCRIBE | {"x": None},
        )
    ]
    assert places[0] == places[1]
    assert len(set(places)) == 3
    assert places[0].parent == tmp_path / "emodb"
    assert places[0].name.startswith("mel-")
    assert store.place(tmp_path, "../a/b", "mel", DESCRIBE).parent.parent == tmp_path


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_truncated_part_is_named(tmp_path, kept):
    append(tmp_path, "mel", DESCRIBE, [row("a")])
    append(tmp_path, "mel", DESCRIBE, [row("b")])
    part = tmp_path / "part-00001.arrow"
    content = part.read_bytes()
    part.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(StoreError, match=r"part-00001\.arrow: truncated or damaged.*delete this file"):
        store.open(tmp_path)
    part.unlink()
    same(store.open(tmp_path), [row("a")])


def test_flipped_bits_of_values_are_found_by_verify(tmp_path):
    append(tmp_path, "mel", DESCRIBE, [row("a"), row("b", seed=1)])
    part = tmp_path / "part-00000.arrow"
    content = bytearray(part.read_bytes())
    content[content.find(row("b", seed=1).values.tobytes()) + 7] ^= 4
    part.write_bytes(content)
    (fault,) = store.open(tmp_path).verify()
    assert "part-00000.arrow" in fault
    assert "'b'" in fault


def test_a_second_writer_at_once_is_refused(tmp_path):
    with Writer(tmp_path, "mel", DESCRIBE) as writer:
        with pytest.raises(StoreError, match="another process is writing"):
            Writer(tmp_path, "mel", DESCRIBE)
        writer.write([row("a")])
        assert store.open(tmp_path).ids == ("a",)  # reading goes on
    Writer(tmp_path, "mel", DESCRIBE).__exit__(None, None, None)


def test_shares_are_written_at_once_and_the_whole_by_one_alone(tmp_path):
    with (
        Writer(tmp_path, "mel", DESCRIBE, shard=(1, 2)) as one,
        Writer(tmp_path, "mel", DESCRIBE, shard=(2, 2)) as two,
    ):
        for shard in ((1, 2), None):
            with pytest.raises(StoreError, match="another process is writing"):
                Writer(tmp_path, "mel", DESCRIBE, shard=shard)
        for writer, id in ((two, "b"), (one, "a"), (two, "d"), (one, "c")):
            writer.write([row(id)])
    assert [part.name for part in store.parts(tmp_path)] == [
        "part-00000-2of2.arrow", "part-00001-1of2.arrow", "part-00002-2of2.arrow", "part-00003-1of2.arrow",
    ]  # fmt: skip
    append(tmp_path, "mel", DESCRIBE, [row("b", audio="new")])
    opened = store.open(tmp_path)
    assert sorted(opened.ids) == ["a", "b", "c", "d"]
    assert opened.audio_digest("b") == "new"


def test_a_writer_clears_its_own_strays_and_not_those_of_other_shares(tmp_path):
    with Writer(tmp_path, "mel", DESCRIBE, shard=(2, 2)):
        stray = tmp_path / ".part-00000-2of2.arrow"
        stray.touch()  # being written
        Writer(tmp_path, "mel", DESCRIBE, shard=(1, 2)).__exit__(None, None, None)
        assert stray.exists()
    Writer(tmp_path, "mel", DESCRIBE).__exit__(None, None, None)
    assert not stray.exists()


def test_a_quota_stops_the_part_and_keeps_those_before(tmp_path):
    """The operating system's own refusal: no file beyond 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    append(tmp_path, "mel", DESCRIBE, [row("a")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(StoreError, match=r"part-00001\.arrow: cannot be written \(.*make room"):
            append(tmp_path, "mel", DESCRIBE, [row("b", (40_000, 4))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    same(store.open(tmp_path), [row("a")])
    assert not list(tmp_path.glob(".part-*"))


def test_a_folder_that_cannot_be_written_is_an_error():
    with pytest.raises(StoreError, match="/proc/features/mel: cannot be written"):
        Writer(Path("/proc/features/mel"), "mel", DESCRIBE)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with Writer(tmp_path, "mel", DESCRIBE) as writer:
        writer.write([row("a")])

        def full(_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="No space left on device"):
                writer.write([row("b")])
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "part-00000.arrow"]
        writer.write([row("b")])
    assert store.open(tmp_path).ids == ("a", "b")


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noting(descriptor):
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), (tmp_path / "t").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with store.replacing(tmp_path / "t") as file:
        file.write(b"whole")
    assert synced == [(tmp_path / ".t", False), (tmp_path, True)]
    assert (tmp_path / "t").read_bytes() == b"whole"


def test_a_part_is_not_there_before_it_is_synced(tmp_path, monkeypatch):
    def killed(_):
        raise SystemExit

    append(tmp_path, "mel", DESCRIBE, [row("a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(SystemExit):
            append(tmp_path, "mel", DESCRIBE, [row("b")])
    assert store.open(tmp_path).ids == ("a",)
    append(tmp_path, "mel", DESCRIBE, [row("c")])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "part-00000.arrow", "part-00001.arrow"]


WRITE_FOR_EVER = """
    import sys
    from pathlib import Path
    import numpy as np
    from pcl_jax.features.store import Row, Writer, open
    folder = Path(sys.argv[1])
    there = open(folder).ids if folder.is_dir() else ()
    with Writer(folder, "mel", {"dtype": "float32"}) as writer:
        for part in range(len(there) // 4, 10_000):
            ids = [str(4 * part + i) for i in range(4)]
            writer.write([Row(id, id, np.full((5_000, 4), int(id), np.float32)) for id in ids])
            print(part, flush=True)
"""


@pytest.mark.slow
def test_killed_writer_leaves_whole_parts_and_no_stray_behind(tmp_path):
    folder = tmp_path / "s"
    for parts, pause_s in ((1, 0.0), (2, 0.001), (1, 0.004), (3, 0.002)):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITE_FOR_EVER), str(folder)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(parts):
            assert process.stdout.readline()
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        (folder / ".part-99999.arrow").write_bytes(b"half a part")
        opened = store.open(folder)
        assert opened.verify() == []
        assert sorted(opened.ids, key=int) == [str(i) for i in range(len(opened))]
        assert all((opened[id] == int(id)).all() for id in opened)
    assert len(opened) >= 4 * 7
    with Writer(folder, "mel", {"dtype": "float32"}):
        assert not list(folder.glob(".part-*"))


def test_opening_ten_thousand_rows_is_quick_and_reads_no_values(tmp_path):
    with Writer(tmp_path, "v", DESCRIBE) as writer:
        for first in range(0, 10_000, 100):
            writer.write(
                [
                    Row(f"Ses01F_impro{i}_M000", "0" * 64, np.ones(64, np.float32))
                    for i in range(first, first + 100)
                ]
            )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        opened = store.open(tmp_path)
        seconds.append(time.perf_counter() - start)
    assert len(opened) == 10_000
    assert min(seconds) < 0.2


@pytest.mark.slow
def test_writers_in_processes_one_of_which_dies_do_not_block_the_next(tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_hold_lock_and_die, args=(tmp_path,))
    process.start()
    process.join()
    append(tmp_path, "mel", DESCRIBE, [row("a")])
    assert store.open(tmp_path).ids == ("a",)


def _hold_lock_and_die(folder: Path) -> None:
    Writer(folder, "mel", DESCRIBE)
    os._exit(1)
