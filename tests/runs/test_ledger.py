"""Finished means: the files are there and say so. Nothing that got lost or was added leads to a dead end."""

import gc
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.runs import records
from pcl_jax.runs.checkpoint import CheckpointError
from pcl_jax.runs.pretraining import STATES
from pcl_jax.runs.spec import Finetune, Probe
from tests.runs.conftest import SETTINGS, finetune, small_runner

# Orbax reads a damaged state in coroutines, which nobody awaits after the first has failed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)


@pytest.fixture
def collect_coroutines():
    """Let them be collected here, and not in a later test. It takes a second once many programs are alive."""
    yield
    gc.collect()


def rows_of(runner) -> list[dict]:
    return list(records.read(runner.ledger.runs))


@pytest.mark.slow
def test_a_record_that_was_lost_is_restored_and_nothing_is_done_again(make_runner):
    runner = make_runner()
    start = runner.pretraining(1)
    runner.pretrain(start)
    row = finetune(runner, 1, "egemaps", start)
    (runner.ledger.runs / records.FILE).unlink()
    assert runner.ledger.finished_records([start, Finetune(1, "egemaps", start, settings=SETTINGS)]) == [row]
    assert finetune(runner, 1, "egemaps", start) == row
    pretraining, restored = rows_of(runner)  # each once
    assert restored == row
    assert pretraining == runner.ledger.find(start)


def test_a_foreign_or_torn_row_is_passed_over(make_runner):
    runner = make_runner()
    row = finetune(runner, 1, "egemaps")
    with open(runner.ledger.runs / records.FILE, "a") as file:
        file.write('{"other": "tool"}\n[1]\n{"run": 3}\n{"run": "to')
    assert finetune(runner, 1, "egemaps") == row
    finetune(runner, 1, "mel")
    assert [found["view"] for found in rows_of(runner)] == ["egemaps", "mel"]


@pytest.mark.parametrize("lost", ["", "model.safetensors", "predictions.npz", "record.json"])
def test_a_run_whose_files_are_gone_is_done_again_to_the_same_result(make_runner, lost):
    runner = make_runner()
    row = finetune(runner, 1, "egemaps")
    folder = runner.ledger.runs / row["run"]
    shutil.rmtree(folder) if not lost else (folder / lost).unlink()
    again = finetune(runner, 1, "egemaps")
    assert again["params_digest"] == row["params_digest"]
    assert runner.ledger.find(Finetune(1, "egemaps", settings=SETTINGS)) == again


def test_a_lost_pretraining_says_what_to_do(make_runner):
    runner = make_runner()
    start = runner.pretraining(1)
    shutil.rmtree(runner.pretrain(start))
    with pytest.raises(CheckpointError, match="no pre-trained encoders"):
        finetune(runner, 1, "egemaps", start)


class Stopped(Exception):
    pass


def stop_after_three(row, _):
    if row["epoch"] == 3:
        raise Stopped


def damage(state) -> None:
    for file in state.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.usefixtures("collect_coroutines")
@pytest.mark.slow
def test_a_damaged_newest_state_leads_back_to_the_one_before(make_runner, monkeypatch):
    monkeypatch.setattr("pcl_jax.runs.pretraining.SAVE_EVERY_S", 0.0)  # a state after every epoch
    whole, broken = make_runner(runs="whole"), make_runner(runs="broken")
    whole.pretrain(whole.pretraining(1))
    start = broken.pretraining(1)
    with pytest.raises(Stopped):
        broken.pretrain(start, stop_after_three)
    states = sorted(path for path in (broken.ledger.folder(start) / STATES).iterdir() if path.is_dir())
    assert len(states) == 2
    damage(states[-1])
    epochs = []
    broken.pretrain(start, lambda row, _: epochs.append(row["epoch"]))
    assert epochs == [3, 4]
    digests = [r.ledger.find(r.pretraining(1))["params_digest"] for r in (whole, broken)]
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("collect_coroutines")
def test_states_that_are_all_damaged_are_one_line_with_the_remedy(make_runner):
    runner = make_runner()
    start = runner.pretraining(1)
    with pytest.raises(Stopped):
        runner.pretrain(start, stop_after_three)
    for state in (runner.ledger.folder(start) / STATES).iterdir():
        damage(state)
    with pytest.raises(CheckpointError, match="delete that folder to start again") as error:
        runner.pretrain(start)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_predictions_are_log_probabilities_of_the_labelled_utterances(make_runner):
    runner = make_runner()
    corpus = runner.corpus
    for spec in (Finetune(2, "mel", settings=SETTINGS), Probe(2, "mel", "probe-raw", settings=SETTINGS)):
        row = runner.run_one(spec)
        found = runner.ledger.predictions(spec)
        assert found.classes == corpus.classes
        for ids, values, session in (
            (found.test_ids, found.test, 2),
            (found.validation_ids, found.validation, 3),
        ):
            expected = {u.id for u in corpus.utterances if u.session == session and u.emotion != "other"}
            assert set(ids) == expected
            assert len(ids) == len(expected)
            np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, rtol=1e-5)
        truth = {u.id: corpus.label(u) for u in corpus.utterances}
        right = [truth[id] == int(p.argmax()) for id, p in zip(found.test_ids, found.test, strict=True)]
        assert np.mean(right) == pytest.approx(row["wa"])


def test_a_record_is_json_that_reads_back_equal(make_runner):
    runner = make_runner()
    row = finetune(runner, 1, "egemaps")
    assert json.loads(json.dumps(row)) == row == rows_of(runner)[0]


def test_a_pretraining_that_was_lost_from_the_records_is_restored(make_runner):
    """A kill between the record of the folder and the row of all records."""
    runner = make_runner()
    spec = runner.pretraining(1)
    runner.pretrain(spec)
    path = runner.ledger.runs / records.FILE
    lines = path.read_text()
    path.write_text("")
    assert runner.ledger.finished_records([spec]) == []  # it scores nothing
    assert path.read_text() == lines


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Folder of a pre-training that was stopped after three epochs, and the digest of one that was not."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcl_jax.runs.pretraining.SAVE_EVERY_S", 0.0)  # a state after every epoch
        runner = small_runner(folder, runs="whole")
        runner.pretrain(runner.pretraining(1))
        digest = runner.ledger.find(runner.pretraining(1))["params_digest"]
        broken = small_runner(folder, runs="broken")
        with pytest.raises(Stopped):
            broken.pretrain(broken.pretraining(1), stop_after_three)
    return folder, digest


@pytest.mark.usefixtures("collect_coroutines")
@pytest.mark.slow
@given(st.integers(0, 1000), st.sampled_from([None, 0.0, 0.5, 0.99]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_file_that_a_stop_left_may_be_lost_or_cut_short(stopped, number, kept):
    """The run ends with the same parameters, or one line says what to delete; nothing is half used."""
    folder, digest = stopped
    with tempfile.TemporaryDirectory() as scratch:
        copied = shutil.copytree(folder, Path(scratch) / "copy")
        runner = small_runner(copied, runs="broken")
        start = runner.pretraining(1)
        run = runner.ledger.folder(start)
        files = sorted(path for path in run.rglob("*") if path.is_file())
        file = files[number % len(files)]
        if kept is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
        fault = ""
        try:
            runner.pretrain(start)
        except CheckpointError as error:
            fault = str(error)
        if fault:
            assert "\n" not in fault
            assert str(run) in fault
        else:
            assert runner.ledger.find(start)["params_digest"] == digest
