"""Small runs from end to end: resumption, refusal of foreign checkpoints, no leakage, any number of views."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from pcl_jax import config
from pcl_jax.data.ragged import pack
from pcl_jax.evaluation.metrics import uar
from pcl_jax.models.encoders import FunctionalsEncoder, HiddenStatesEncoder, SpectrogramEncoder
from pcl_jax.runs import plan, records
from pcl_jax.runs import runner as runner_module
from pcl_jax.runs.checkpoint import ENCODERS, CheckpointError, load_arrays, load_encoder
from pcl_jax.runs.ledger import RunBusy
from pcl_jax.runs.plan import label_efficiency
from pcl_jax.runs.results import saved_encoders
from pcl_jax.runs.spec import Finetune, Labels, Pretrain, Probe
from pcl_jax.runs.summary import labels
from tests.runs.conftest import SETTINGS, VIEWS, FakeView, finetune, small_corpus


def pretrain(runner, fold: int, watch=None, **changes) -> Path:
    return runner.pretrain(runner.pretraining(fold, **changes), watch)


def probe(runner, *words) -> dict:
    return runner.run_one(Probe(*words, settings=runner.settings))


def record_in(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


class Stopped(Exception):
    pass


def stop_after(epochs: int):
    def watch(row, most):
        if row["epoch"] == epochs:
            raise Stopped

    return watch


def test_a_pretraining_says_why_it_does_not_resume_from_one_that_was_stopped(make_runner):
    runner = make_runner()
    with pytest.raises(Stopped):
        pretrain(runner, 1, stop_after(1))
    assert list(runner.stopped_elsewhere(runner.pretraining(1))) == []  # it resumes
    other = runner.pretraining(1, temperature=0.25)
    (line,) = runner.stopped_elsewhere(other)
    assert line.endswith("it has settings.pretraining.temperature 0.5, not 0.25")
    assert str(runner.ledger.folder(runner.pretraining(1))) in line
    assert list(runner.stopped_elsewhere(runner.pretraining(2, temperature=0.25))) == []
    card = runner.ledger.folder(runner.pretraining(1)) / "run.json"
    whole = card.read_text()
    for damaged in ("", "{", whole[:100]):
        card.write_text(damaged)
        assert list(runner.stopped_elsewhere(other)) == []
    card.write_text(whole)
    pretrain(runner, 1)
    assert list(runner.stopped_elsewhere(other)) == []  # that one is finished


@pytest.mark.slow
def test_a_stopped_pretraining_resumes_to_the_same_parameters(make_runner):
    whole, broken = make_runner(runs="whole"), make_runner(runs="broken")
    straight = record_in(pretrain(whole, 1))
    for epochs in (1, 3):
        with pytest.raises(Stopped):
            pretrain(broken, 1, stop_after(epochs))
        assert not (broken.ledger.folder(broken.pretraining(1)) / ENCODERS).exists()
    folder = pretrain(broken, 1)
    assert record_in(folder)["params_digest"] == straight["params_digest"]
    assert not (folder / "states").exists()  # nothing resumes from a finished run
    epochs = [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]
    losses = [
        [json.loads(line)["loss"] for line in (r.ledger.folder(r.pretraining(1)) / "epochs.jsonl").open()]
        for r in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert all(1 < json.loads(line)["programs"] <= 6 for line in (folder / "epochs.jsonl").open())


@pytest.mark.slow
def test_the_seed_and_only_the_seed_decides(make_runner):
    digests = {
        (runs, seed): record_in(pretrain(runner, 1))["params_digest"]
        for runs, seed in (("a", 0), ("b", 0), ("c", 1))
        for runner in [make_runner(runs=runs, seed=seed)]
    }
    assert digests["a", 0] == digests["b", 0] != digests["c", 1]


def test_a_finished_run_is_not_done_again(make_runner):
    runner = make_runner()
    pretrain(runner, 1)
    first = finetune(runner, 1, "egemaps", runner.pretraining(1))
    pretrain(runner, 1, stop_after(1))
    assert finetune(runner, 1, "egemaps", runner.pretraining(1)) == first
    assert len(list(records.read(runner.ledger.runs))) == 2


def test_a_checkpoint_of_another_fold_corpus_or_feature_is_refused(make_runner):
    runner = make_runner()
    start = saved_encoders(pretrain(runner, 1))
    with pytest.raises(CheckpointError, match=r"fold 1, not 2 .*test speakers"):
        finetune(runner, 2, "egemaps", start)
    smaller = make_runner(runs="other", corpus=small_corpus(per_speaker=7))
    with pytest.raises(CheckpointError, match="recordings"):
        finetune(smaller, 1, "egemaps", start)
    raw = make_runner(runs="raw", settings=replace(SETTINGS, normalise="none"))
    with pytest.raises(CheckpointError, match="normalise fold, not none"):
        finetune(raw, 1, "egemaps", start)
    with pytest.raises(CheckpointError, match="no pre-trained encoders"):
        saved_encoders(runner.ledger.runs / "nothing")


def test_a_damaged_checkpoint_says_so(make_runner):
    runner = make_runner()
    folder = pretrain(runner, 1)
    (folder / ENCODERS).write_bytes((folder / ENCODERS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        finetune(runner, 1, "egemaps", runner.pretraining(1))
    with pytest.raises(CheckpointError, match="cannot be read"):
        saved_encoders(folder)


def test_nothing_of_the_test_session_reaches_training(make_runner):
    """Spoil the test session's features: the pre-trained parameters are the same to the bit."""

    def spoil(utterance, values):
        return values * 100 if utterance.session == 1 else values

    clean, spoiled = make_runner(runs="clean"), make_runner(runs="spoiled", spoil=spoil)
    digests = [record_in(pretrain(r, 1))["params_digest"] for r in (clean, spoiled)]
    assert digests[0] == digests[1]
    tuned = [finetune(r, 1, "mel", r.pretraining(1))["params_digest"] for r in (clean, spoiled)]
    assert tuned[0] == tuned[1]


def test_every_test_utterance_is_predicted_once_and_scored_by_hand(make_runner):
    runner = make_runner()
    row = finetune(runner, 3, "egemaps", fraction=0.5, repeat=2)
    lines = (runner.ledger.runs / row["run"] / "predictions.csv").read_text().splitlines()[1:]
    ids, truth, prediction = zip(*(line.split(",") for line in lines), strict=True)
    expected = {u.id: u.emotion for u in runner.corpus.utterances if u.session == 3 and u.emotion != "other"}
    assert dict(zip(ids, truth, strict=True)) == expected
    assert len(ids) == len(expected)
    index = {name: i for i, name in enumerate(runner.corpus.classes)}
    numbers = [np.array([index[name] for name in names]) for names in (truth, prediction)]
    assert row["uar"] == pytest.approx(uar(*numbers, 4))
    # sessions 1, 2 and 5 have 6 speakers of two utterances a class, half of which are labelled;
    # "happy" has one a speaker
    assert row["n_labelled"] == 3 * 6 + 3


def test_representations_are_those_that_the_kept_model_reads_and_predicts_from(make_runner):
    runner = make_runner()
    pretrain(runner, 3)
    start = runner.pretraining(3)
    found = {
        source: runner.representations(start, "egemaps", source, runner.settings)
        for source in ("random", "pretrained", "supervised")
    }
    row = finetune(runner, 3, "egemaps")
    model, _ = load_arrays(runner.ledger.runs / row["run"] / "model.safetensors")
    layer = model["classifier"]["Dense_0"]
    data = runner.data(start)
    logits = found["supervised"][data.labelled(data.test)] @ layer["kernel"] + layer["bias"]
    lines = (runner.ledger.runs / row["run"] / "predictions.csv").read_text().splitlines()[1:]
    assert [runner.corpus.classes[i] for i in logits.argmax(axis=1)] == [line.split(",")[2] for line in lines]
    assert len(found["random"]) == len(runner.corpus.utterances)
    assert not np.allclose(found["random"], found["pretrained"])
    assert not np.allclose(found["supervised"], found["pretrained"])


def test_a_frozen_encoder_stays_and_a_tuned_one_moves(make_runner):
    from safetensors.numpy import load_file

    runner = make_runner()
    before = load_file(pretrain(runner, 1) / ENCODERS)
    for frozen in (True, False):
        row = finetune(runner, 1, "mel", runner.pretraining(1), frozen=frozen)
        after = load_file(runner.ledger.runs / row["run"] / "model.safetensors")
        names = [name for name in before if name.startswith("mel.")]
        same = [np.array_equal(before[n], after[n.replace("mel.", "encoder.", 1)]) for n in names]
        assert all(same) if frozen else not any(same)


def test_features_that_say_the_emotion_are_learned(make_runner):
    settings = replace(SETTINGS, finetuning=replace(SETTINGS.finetuning, epochs=40, learning_rate=1e-2))
    runner = make_runner(settings=settings)
    assert finetune(runner, 1, "egemaps")["uar"] > 0.6
    assert probe(runner, 1, "mel", "probe-raw")["uar"] > 0.8


@pytest.mark.slow
def test_a_plan_holds_every_run_once_and_all_methods_see_the_same_labels(make_runner):
    runner = make_runner()
    start = runner.pretraining(1)
    specs = list(label_efficiency([start], runner.settings, {0.5: 2, 1.0: 1}, per_class={2: 1}, probes=True))
    assert len(specs) == 1 + 4 * 2 * 6 == len({runner.ledger.folder(spec) for spec in specs})
    assert runner.ledger.finished_records(specs) == []
    (group,) = plan.groups(specs)
    assert group.pretraining == start
    pretrain(runner, 1)
    rows = list(runner.run_all(group.runs))
    finished = runner.ledger.finished_records(specs)
    assert sorted(row["run"] for row in finished) == sorted(row["run"] for row in rows)
    by_subset = {}
    for row in rows:
        by_subset.setdefault((labels(row), row["repeat"]), set()).add(row["n_labelled"])
    assert by_subset["2 a class", 0] == {2 * 4}
    assert all(len(sizes) == 1 for sizes in by_subset.values())


def test_shares_of_a_plan_are_disjoint_and_together_all_of_it(make_runner):
    """What follows from one pre-training stays together, so that no process waits for another's."""
    runner = make_runner()
    variants = [[runner.pretraining(fold, temperature=tau) for fold in (1, 2, 3)] for tau in (0.1, 0.5)]
    specs = [
        s for starts in variants for s in label_efficiency(starts, runner.settings, {0.5: 2}, probes=True)
    ]
    whole = plan.groups(specs)
    shares = [plan.groups(specs, (i, 4)) for i in (1, 2, 3, 4)]
    assert sum(map(len, shares)) == len(whole) == 6
    assert [group for i in range(6) for group in [shares[i % 4][i // 4]]] == whole
    assert whole[0].title(whole) == "fold 1, tau = 0.1"
    one = plan.groups(label_efficiency([runner.pretraining(2)], runner.settings, {0.5: 1}, probes=False))
    assert one[0].title(whole[:1]) == "fold 2"


def test_a_run_is_named_alike_whatever_other_views_were_opened(make_runner):
    both, one = make_runner(), make_runner(views=VIEWS[1:])
    spec = Finetune(2, "egemaps", labels=Labels(0.5), settings=SETTINGS)
    assert one.ledger.folder(spec) == both.ledger.folder(spec)


@pytest.mark.slow
def test_two_local_devices_give_the_epochs_of_one(make_runner):
    # A small rate: where a gradient is rounding noise, before a batch norm, Adam's step is the whole rate.
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, epochs=1, learning_rate=1e-4))
    views = (
        replace(VIEWS[0], encoder_of=lambda: SpectrogramEncoder(channels=(4, 4, 8), dropout=0.0)),
        VIEWS[1],
    )
    rows = []
    for count in (1, 2):
        runner = make_runner(runs=f"on{count}", settings=settings, views=views, devices=count)
        rows.append(json.loads((pretrain(runner, 1) / "epochs.jsonl").read_text()))
    for name in ("loss", "validation_loss", "retrieval"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=2e-5), name


@pytest.mark.slow
def test_a_fourth_view_is_an_object_and_a_name(make_runner):
    """Hidden states and a second vector join mel and eGeMAPS: nothing else is told of them."""
    states = FakeView(
        "states",
        lambda: HiddenStatesEncoder(widths=(8, 8)),
        lambda rng, emotion: rng.normal(emotion, size=(int(rng.integers(5, 15)), 3, 6)).astype(np.float32),
        normalised=False,
    )
    rhythm = FakeView(
        "rhythm",
        lambda: FunctionalsEncoder(widths=(8,)),
        lambda rng, emotion: rng.normal(emotion, size=5).astype(np.float32),
    )
    runner = make_runner(views=(*VIEWS, states, rhythm))
    assert record_in(pretrain(runner, 1))["views"] == ["mel", "egemaps", "states", "rhythm"]
    assert finetune(runner, 1, "states", runner.pretraining(1))["uar"] > 0


def test_a_loss_that_is_not_finite_stops_with_epoch_step_view_and_gradient(make_runner):
    """A rate without bounds: the first step ruins all parameters, the second step's loss shows it."""
    wild = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, learning_rate=1e38))
    with pytest.raises(FloatingPointError) as error:
        pretrain(make_runner(settings=wild), 1)
    message = str(error.value)
    assert "in epoch 1, step 2: projections of mel, egemaps not finite" in message
    assert re.search(r"one step before: mel [\d.e+-]+, egemaps [\d.e+-]+; lower --learning-rate", message)


def test_the_view_that_is_not_finite_is_named(make_runner):
    class Overflows(FunctionalsEncoder):
        def __call__(self, features, *, train=False):
            return super().__call__(features, train=train) * 1e38 * 1e38

    views = (VIEWS[0], replace(VIEWS[1], encoder_of=lambda: Overflows(widths=(8,))))
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: projections of egemaps not finite; l"):
        pretrain(make_runner(views=views), 1)


def test_one_view_cannot_be_pulled_together(make_runner):
    with pytest.raises(ValueError, match="give at least two"):
        pretrain(make_runner(views=VIEWS[:1]), 1)


def test_too_few_utterances_for_a_batch_is_said(make_runner):
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, batch=128))
    with pytest.raises(ValueError, match="48 training utterances, fewer than one batch of 128"):
        pretrain(make_runner(settings=settings), 1)


@pytest.mark.slow
@pytest.mark.parametrize("subset", ["target", "out_of_distribution"])
def test_pretraining_on_a_subset_is_pretraining_on_a_corpus_that_has_nothing_else(make_runner, subset):
    corpus = small_corpus(per_speaker=20)
    plain = replace(SETTINGS, normalise="none")
    chosen = replace(plain, pretraining=replace(plain.pretraining, subset=subset))
    digests = []
    for settings, utterances in ((chosen, corpus.utterances), (plain, corpus.subset(subset))):
        runner = make_runner(
            settings=settings,
            corpus=replace(corpus, utterances=utterances),
            spoil=lambda _, values: np.nan_to_num(values),  # else the training mean, which is of all
        )
        digests.append(record_in(pretrain(runner, 1))["params_digest"])
    assert digests[0] == digests[1]
    whole = make_runner(settings=plain, corpus=corpus)
    assert record_in(pretrain(whole, 1))["params_digest"] != digests[0]


def test_a_record_says_what_its_encoder_was_pretrained_on(make_runner):
    chosen = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, subset="target"))
    runner = make_runner(settings=chosen)
    folder = pretrain(runner, 1)
    assert record_in(folder)["pretrained_on"] == "target"
    assert finetune(runner, 1, "egemaps", runner.pretraining(1))["pretrained_on"] == "target"
    row = finetune(runner, 1, "egemaps")
    assert row["pretrained_on"] is None
    assert row["protocol"] == record_in(folder)["protocol"]
    # 8 utterances of each of ten speakers, neutral, angry, sad, happy and other in turn.
    assert (row["counts"], row["utterances"]) == ([20, 20, 20, 10], 80)
    truth, right = np.sum(row["confusion"], axis=1), np.diag(row["confusion"])
    np.testing.assert_allclose(right / truth, row["recall"])


def test_a_subset_that_is_not_there_is_said(make_runner):
    corpus = small_corpus()
    corpus = replace(corpus, utterances=corpus.subset("target"))
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, subset="out_of_distribution"))
    with pytest.raises(ValueError, match="0 training utterances of other emotions, fewer"):
        pretrain(make_runner(settings=settings, corpus=corpus), 1)


def test_normalising_by_speaker_uses_each_speakers_own_audio(make_runner):
    """A speaker whose features are all shifted and scaled comes out as if they were not."""

    def louder(utterance, values):
        return values * 3 + 50 if utterance.speaker == "1F" else values

    settings = replace(SETTINGS, normalise="speaker")
    plain = make_runner(runs="plain", settings=settings).data(
        Pretrain(1, ("mel", "egemaps"), settings=settings)
    )
    loud = make_runner(runs="loud", settings=settings, spoil=louder).data(
        Pretrain(1, ("mel", "egemaps"), settings=settings)
    )
    for view in ("mel", "egemaps"):
        a, b = (np.asarray(d.features[view].values) for d in (plain, loud))
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_missing_functionals_are_imputed_counted_and_never_passed_on(make_runner):
    runner = make_runner()
    data = runner.data(runner.pretraining(1))
    assert data.imputed["egemaps"] > 0 == data.imputed["mel"]
    for packed in data.features.values():
        assert np.isfinite(np.asarray(packed.values)).all()


@pytest.mark.slow
def test_killed_at_any_instant_the_same_command_goes_on_to_the_same_parameters(tmp_path):
    """SIGKILL a real `pcl pretrain` of the demo again and again; compare with one left alone."""
    command = [
        *(sys.executable, "-c", "from pcl_jax.cli import main; main()"),
        *("pretrain", "--fold", "1", "--views", "mel", "egemaps", "--epochs", "30"),
        *("--features", str(tmp_path / "features")),
        *("--root", str(tmp_path / "demo"), "--runs"),
    ]

    def digest(runs: Path) -> str:
        (row,) = records.read(runs)
        return row["params_digest"]

    # It trains for a while: optimised programs pay.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    subprocess.run([*command, str(tmp_path / "left")], check=True, env=environment, timeout=900)
    rng = np.random.default_rng(0)
    for attempt in range(30):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        try:
            process.wait(timeout=float(rng.uniform(3, 12)) + attempt)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            assert process.returncode == 0
            break
    assert attempt > 1  # it was killed at least twice
    assert digest(tmp_path / "killed") == digest(tmp_path / "left")


def hold(runner, spec) -> subprocess.Popen:
    """Start another process that does a run, as far as this one can tell."""
    holder = textwrap.dedent(f"""
        import fcntl, os, sys
        file = open({str(runner.ledger.runs / ".lock")!r}, "ab")
        fcntl.lockf(file, fcntl.LOCK_EX, 1, {int(runner.protocol.identity(spec), 16)}, os.SEEK_SET)
        print("held", flush=True)
        sys.stdin.read()
    """)
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_second_process_on_the_same_pretraining_is_told(make_runner):
    runner = make_runner()
    runner.ledger.runs.mkdir()
    with hold(runner, runner.pretraining(1)) as process:
        with pytest.raises(RunBusy, match="another process"):
            pretrain(runner, 1)
        pretrain(runner, 2, stop_after(9))  # another run is free
        process.kill()
    assert jax.device_count() == 8


def test_a_run_that_another_process_does_comes_last_and_is_not_done_twice(make_runner, monkeypatch):
    """The other process ends without a record, so this one does the run in the end."""
    runner = make_runner()
    runner.ledger.runs.mkdir()
    specs = [Finetune(1, view, settings=runner.settings) for view in ("mel", "egemaps")]
    with hold(runner, specs[0]) as process:
        monkeypatch.setattr(runner_module, "wait_for_others", lambda: (process.kill(), process.wait()))
        rows = list(runner.run_all(specs))
    assert [row["view"] for row in rows] == ["egemaps", "mel"]
    # A run that is finished by somebody else while this process waits is only read.
    done = make_runner(runs="done")
    done.ledger.runs.mkdir()
    finished = dict(done.run_one(specs[0]))
    find = type(done.ledger).find
    looks = iter([None])  # not finished at the first look
    monkeypatch.setattr(type(done.ledger), "find", lambda ledger, spec: next(looks, find(ledger, spec)))
    assert list(done.run_all([specs[0]])) == [finished]
    assert len(list(records.read(done.ledger.runs))) == 1


class Noting(nn.Module):
    """An encoder that notes with which precision it was compiled."""

    seen: tuple = ()

    @nn.compact
    def __call__(self, features, *, train=False):
        PRECISIONS.append(jax.config.jax_default_matmul_precision)
        return nn.Dense(8)(features)


PRECISIONS: list[str] = []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_that_trains_or_tests_has_the_precision_of_its_runner(make_runner, precision):
    settings = replace(SETTINGS, precision=precision)
    views = (VIEWS[0], replace(VIEWS[1], encoder_of=lambda: Noting(seen=(precision,))))
    runner = make_runner(views=views, settings=settings)
    PRECISIONS.clear()
    pretrain(runner, 1)
    pretraining = len(PRECISIONS)
    finetune(runner, 1, "egemaps", runner.pretraining(1))
    tuning = len(PRECISIONS)
    probe(runner, 1, "egemaps", "probe-random")
    assert 0 < pretraining < tuning < len(PRECISIONS)
    assert set(PRECISIONS) == {precision}
    folders = {runner.ledger.folder(Finetune(1, "egemaps", settings=used)) for used in (SETTINGS, settings)}
    assert (precision == "float32") == (len(folders) == 1)


@pytest.mark.slow
def test_an_encoder_that_flattens_takes_batches_that_are_not_full(make_runner):
    """`--preset authors`: as many frames of no utterance as of one, or the others' would be torn apart."""
    flat = partial(SpectrogramEncoder, channels=(4, 4, 8), pool="flatten", flatten_frames=41)
    settings = replace(
        SETTINGS,
        encoders=config.Encoders(spectral_pool="flatten"),
    )
    runner = make_runner(
        views=(replace(VIEWS[0], encoder_of=flat, full_frames=41), VIEWS[1]), settings=settings
    )
    folder, start = pretrain(runner, 1), runner.pretraining(1)
    vectors = runner.representations(start, "mel", "pretrained", settings)
    params, _ = load_encoder(folder, "mel")
    for row, frames in list(enumerate(runner.data(start).iterate_features("mel")))[::9]:
        alone = pack([np.pad(frames, ((0, 41 - len(frames)), (0, 0)))])
        expected = flat().apply({"params": params}, alone)
        np.testing.assert_allclose(vectors[row], expected[0], rtol=1e-4, atol=1e-5)
    finetune(runner, 1, "mel", start)  # 42 labelled in batches of 16
