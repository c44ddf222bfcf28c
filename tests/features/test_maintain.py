"""Stores are listed, verified, repaired, removed and taken elsewhere."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet

from pcl_jax.corpora.table import seconds
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features import maintain as manage
from pcl_jax.features import store
from pcl_jax.features.export import export
from pcl_jax.features.extract import extract
from pcl_jax.features.store import StoreError
from pcl_jax.runs.checkpoint import save_arrays
from pcl_jax.views.table import TableView
from tests.features.parts import append
from tests.features.test_extract import Ends, corpus_of, sound

DESCRIBE = {"dtype": "float32"}


def rows(*ids: str) -> list[store.Row]:
    return [store.Row(id, id, np.full((3, 2), i, np.float32)) for i, id in enumerate(ids)]


def test_lists_every_store_of_every_corpus(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 2)
    for view in (Ends(), Ends(count=3), Ends(name="two-words")):
        extract(corpus, [view], tmp_path / "f")
    kept = manage.stores(tmp_path / "f")
    assert [(k.corpus, k.view) for k in kept] == [("c", "ends"), ("c", "ends"), ("c", "two-words")]
    assert all(store.place(tmp_path / "f", k.corpus, k.view, {}).parent == k.folder.parent for k in kept)
    assert all(k.bytes > 100 and len(k.digest) == 12 for k in kept)
    (tmp_path / "empty").mkdir()
    assert manage.stores(tmp_path / "empty") == []
    with pytest.raises(StoreError, match="nowhere is no folder, so there are no features: check --features"):
        manage.stores(tmp_path / "nowhere")  # a mistyped folder is not "all is whole"


def test_damage_is_found_by_part_and_mended_by_extracting_again(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 6)
    for i in (1, 2, 3):
        extract(corpus, [Ends()], tmp_path / "f", shard=(i, 3))
    (kept,) = manage.stores(tmp_path / "f")
    whole = {id: values.copy() for id, values in store.open(kept.folder).items()}
    assert manage.damaged_parts(kept.folder) == {}
    cut, flipped, _ = store.parts(kept.folder)
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[content.find(whole["001"].tobytes()) + 2] ^= 1
    flipped.write_bytes(content)
    faults = manage.damaged_parts(kept.folder)
    assert list(faults) == [cut, flipped]
    assert "truncated or damaged" in faults[cut][0]
    assert "'001'" in faults[flipped][0]
    for part in faults:
        part.unlink()
    assert extract(corpus, [Ends()], tmp_path / "f").computed == {"ends": 4}
    mended = store.open(kept.folder)
    assert manage.damaged_parts(kept.folder) == {}
    for id, values in whole.items():
        np.testing.assert_array_equal(mended[id], values)


def test_changed_and_missing_audio_is_named(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 4)
    there = extract(corpus, [Ends()], tmp_path / "f").stores["ends"]
    assert manage.changed_audio(there, corpus.utterances) == []
    sound(corpus.utterances[1].path, seed=99)
    corpus.utterances[3].path.unlink()
    assert manage.changed_audio(there, corpus.utterances) == ["001", "003"]


def test_what_a_run_was_trained_on_is_kept(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 1)
    for count in (2, 3, 4):
        extract(corpus, [Ends(count=count)], tmp_path / "f")
    two, three, four = (store.place(tmp_path / "f", "c", "ends", Ends(count=i).describe()) for i in (2, 3, 4))
    card = tmp_path / "runs" / "c" / "pretrain-fold1" / "run.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"ends features": three.name.rpartition("-")[2], "fold": 1}))
    model = tmp_path / "runs" / "c" / "finetune-fold1" / "model.safetensors"
    save_arrays(model, {"w": np.zeros(2)}, {"ends features": four.name.rpartition("-")[2]})
    (unused,) = manage.unused_stores(tmp_path / "f", tmp_path / "runs")
    assert unused.folder == two
    with store.Writer(two, "ends", Ends().describe(), shard=(1, 2)):
        with pytest.raises(StoreError, match="another process is writing"):
            store.remove(two)
        assert len(store.open(two)) == 1
    store.remove(two)
    assert not two.exists()
    assert three.is_dir()
    assert four.is_dir()


def test_the_stores_of_extra_corpora_and_of_corpora_with_odd_names_are_kept(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 1)
    for name in ("c", "extra", "my/c", "other"):
        extract(replace(corpus, name=name), [Ends()], tmp_path / "f")
    digest = store.place(tmp_path, "c", "ends", Ends().describe()).name.rpartition("-")[2]
    card = tmp_path / "runs" / "c" / "pretrain-fold1" / "run.json"
    card.parent.mkdir(parents=True)
    card.write_text(
        json.dumps({"ends features": digest, "feature stores": [f"c/ends-{digest}", f"extra/ends-{digest}"]})
    )
    odd = tmp_path / "runs" / "my%2Fc" / "finetune-fold1" / "model.safetensors"
    save_arrays(odd, {"w": np.zeros(2)}, {"feature stores": [f"my%2Fc/ends-{digest}"]})
    assert [unused.corpus for unused in manage.unused_stores(tmp_path / "f", tmp_path / "runs")] == ["other"]


def test_without_a_run_or_with_one_that_cannot_be_read_nothing_is_called_unused(tmp_path):
    extract(corpus_of(tmp_path / "audio", 1), [Ends()], tmp_path / "f")
    with pytest.raises(StoreError, match=r"rums is no folder.*check --runs"):
        manage.unused_stores(tmp_path / "f", tmp_path / "rums")
    with pytest.raises(StoreError, match=r"audio holds no run.*check --runs"):
        manage.unused_stores(tmp_path / "f", tmp_path / "audio")
    for name in ("run.json", "model.safetensors"):
        run = tmp_path / f"runs of {name}" / "c" / "run"
        run.mkdir(parents=True)
        (run / name).write_text("{")
        with pytest.raises(StoreError, match=rf"{name} cannot be read"):
            manage.unused_stores(tmp_path / "f", run.parents[1])


@pytest.fixture
def segments(tmp_path) -> tuple[Corpus, store.Store]:
    """A whole file and two segments of another."""
    for name in "ab":
        sound(tmp_path / "audio" / f"{name}.wav", ord(name), 32_000)
    a, b = tmp_path / "audio" / "a.wav", tmp_path / "audio" / "b.wav"
    utterances = (
        Utterance("x", a, 1, "s", None, 2.0),
        Utterance("y,\"'ü", b, 1, "s", None, 0.5, 0.25, 0.75),
        Utterance("z", b, 1, "s", None, 1.25, 0.75, None),
    )
    corpus = Corpus("c", utterances, {})
    states = [np.random.default_rng(i).normal(size=(4, 3, 5)).astype(np.float16) for i in range(3)]
    append(
        tmp_path / "s", "states", {"dtype": "float16"},
        [store.Row(u.id, "d", x) for u, x in zip(utterances, states, strict=True)],
    )  # fmt: skip
    return corpus, store.open(tmp_path / "s")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_has_audformats_index_and_comes_back_as_a_view(segments, tmp_path, suffix):
    corpus, there = segments
    to = tmp_path / f"vectors{suffix}"
    assert export(corpus, "states", there, to) == 3
    if suffix == ".csv":
        with to.open(newline="") as file:
            table = list(csv.DictReader(file))
        times = [(seconds(row["start"]), seconds(row["end"])) for row in table]
    else:
        table = parquet.read_table(to).to_pylist()
        times = [
            tuple(None if row[name] is None else row[name].total_seconds() for name in ("start", "end"))
            for row in table
        ]
    assert times == [(0.0, None), (0.25, 0.75), (0.75, None)]
    assert [row["file"] for row in table] == [str(u.path) for u in corpus.utterances]
    view = TableView("mine", to)
    result = extract(corpus, [view], tmp_path / "f")
    for utterance in corpus.utterances:
        expected = there[utterance.id][:, -1].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(result.stores["mine"][utterance.id], expected, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_ids_that_look_like_numbers_come_back(tmp_path, suffix):
    corpus = corpus_of(tmp_path / "audio", 3)
    assert corpus.utterances[0].id == "000"
    stored = extract(corpus, [Ends()], tmp_path / "f").stores["ends"]
    export(corpus, "ends", stored, tmp_path / f"t{suffix}")
    found = extract(corpus, [TableView("mine", tmp_path / f"t{suffix}")], tmp_path / "f").stores["mine"]
    for id in ("000", "001", "002"):
        np.testing.assert_allclose(found[id], stored[id].mean(axis=0), rtol=1e-6)


def test_a_folder_has_every_array_as_stored(segments, tmp_path):
    corpus, there = segments
    export(corpus, "states", there, tmp_path / "arrays")
    with (tmp_path / "arrays" / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values = np.load(tmp_path / "arrays" / row["features"], allow_pickle=False)
            np.testing.assert_array_equal(values, there[row["id"]])
            assert values.dtype == np.float16


def test_an_export_that_fails_leaves_the_file_of_before(segments, tmp_path, monkeypatch):
    corpus, stored = segments
    to = tmp_path / "vectors.csv"
    to.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"vectors\.csv: cannot be written \(No space left"):
            export(corpus, "states", stored, to)
    assert to.read_text() == "before"
    assert not list(tmp_path.glob(".vectors*"))


def test_export_of_nothing_and_to_nowhere_are_errors(segments, tmp_path):
    corpus, there = segments
    with pytest.raises(StoreError, match="no features of an utterance of c"):
        export(Corpus("c", (), {}), "states", there, tmp_path / "x.csv")
    with pytest.raises(StoreError, match=r"x\.csv: cannot be written"):
        export(corpus, "states", there, tmp_path / "no" / "folder" / "x.csv")


def test_rows_are_found_by_the_end_of_a_path_and_times_however_written(segments, tmp_path):
    corpus, _ = segments
    table = tmp_path / "t.csv"
    table.write_text(
        "file,start,end,label,f1,f2\n"
        "audio/b.wav,0 days 00:00:00.75,0 days 00:00:02,no number,5,6.5\n"
        "a.wav,,,x,1,2\n"
        "b.wav,0.25,0.75,x,3,4\n"
    )
    found = extract(corpus, [TableView("mine", table)], tmp_path / "f").stores["mine"]
    assert {id: values.tolist() for id, values in found.items()} == {
        "x": [1, 2], "y,\"'ü": [3, 4], "z": [5, 6.5],
    }  # fmt: skip
    assert (
        TableView("mine", table).describe()
        != TableView("mine", write(tmp_path, "file,f\na.wav,1\n")).describe()
    )


def write(folder, text: str):
    (folder / "other.csv").write_text(text)
    return folder / "other.csv"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,f\na.wav,1\n", r"no row for the utterance y"),
        ("name,f\na.wav,1\n", r"no column 'id' or 'file' .*it has 'name', 'f'"),
        ("file,label\na.wav,one\n", "no column of numbers"),
        ("file,f\na.wav,1\na.wav,2\n", r"several rows of 'a\.wav'"),
        ("", "cannot be read"),
    ],
)
def test_a_table_that_does_not_fit_is_one_clear_error(segments, tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        extract(segments[0], [TableView("mine", write(tmp_path, text))], tmp_path / "f")


def test_a_row_that_would_serve_two_utterances_is_an_error(tmp_path):
    for folder in "ab":
        sound(tmp_path / folder / "1.wav", 0)
    utterances = tuple(Utterance(f, tmp_path / f / "1.wav", 1, "s", None, 0.25) for f in "ab")
    with pytest.raises(ValueError, match=r"row 1 of .* fits the utterance a as well as b"):
        extract(
            Corpus("c", utterances, {}),
            [TableView("m", write(tmp_path, "file,f\n1.wav,1\n"))],
            tmp_path / "f",
        )


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"there is no table .*none\.csv"):
        TableView("m", tmp_path / "none.csv").describe()
