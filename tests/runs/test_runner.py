"""Whole small runs: resume, refusal of foreign checkpoints, no leakage, any number of views."""

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
from pcl_jax.runs.checkpoint import ENCODERS, CheckpointError, load_arrays, load_encoder
from pcl_jax.runs.plan import label_efficiency
from pcl_jax.runs.runner import evaluate, evaluate_all, pretrain, representations, stopped
from pcl_jax.runs.study import Probe, Task
from pcl_jax.runs.summary import labels
from tests.runs.conftest import SETTINGS, VIEWS, FakeView, small_corpus


def record_of(study, folder: Path) -> dict:
    return study.done()[study.relative(folder)]


class Stopped(Exception):
    pass


def stop_after(epochs: int):
    def watch(row, most):
        if row["epoch"] == epochs:
            raise Stopped

    return watch


def test_a_pretraining_says_why_it_does_not_go_on_from_one_that_was_stopped(make_study):
    study = make_study()
    with pytest.raises(Stopped):
        pretrain(study, 1, stop_after(1))
    assert list(stopped(study, 1)) == []  # it goes on
    other = study.pretraining_with(temperature=0.25)
    (line,) = stopped(other, 1)
    assert line.endswith("it has settings.pretraining.temperature 0.5, not 0.25")
    assert str(study.pretraining_folder(1)) in line
    assert list(stopped(other, 2)) == []
    pretrain(study, 1)
    assert list(stopped(other, 1)) == []  # that one is done


def test_a_stopped_pretraining_goes_on_to_the_same_parameters(make_study):
    whole, broken = make_study(runs="whole"), make_study(runs="broken")
    straight = record_of(whole, pretrain(whole, 1))
    for epochs in (1, 3):
        with pytest.raises(Stopped):
            pretrain(broken, 1, stop_after(epochs))
        assert not (broken.pretraining_folder(1) / ENCODERS).exists()
    folder = pretrain(broken, 1)
    assert record_of(broken, folder)["params_digest"] == straight["params_digest"]
    epochs = [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]
    losses = [
        [json.loads(line)["loss"] for line in (s.pretraining_folder(1) / "epochs.jsonl").open()]
        for s in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert all(1 < json.loads(line)["programs"] <= 6 for line in (folder / "epochs.jsonl").open())


def test_the_seed_and_only_the_seed_decides(make_study):
    digests = {
        (runs, seed): record_of(study, pretrain(study, 1))["params_digest"]
        for runs, seed in (("a", 0), ("b", 0), ("c", 1))
        for study in [make_study(runs=runs, seed=seed)]
    }
    assert digests["a", 0] == digests["b", 0] != digests["c", 1]


def test_a_finished_run_is_not_done_again(make_study):
    study = make_study()
    task = Task(1, "egemaps", pretrain(study, 1))
    first = evaluate(study, task)
    pretrain(study, 1, stop_after(1))
    assert evaluate(study, task) == json.loads(json.dumps(first))
    assert len(list(records.read(study.runs))) == 2


def test_a_checkpoint_of_another_fold_corpus_or_feature_is_refused(make_study):
    study = make_study()
    run = pretrain(study, 1)
    with pytest.raises(CheckpointError, match=r"fold 1, not 2 .*test speakers"):
        evaluate(study, Task(2, "egemaps", run))
    smaller = make_study(runs="other", corpus=small_corpus(per_speaker=7))
    with pytest.raises(CheckpointError, match="utterances and sessions"):
        evaluate(smaller, Task(1, "egemaps", run))
    raw = make_study(runs="raw", settings=replace(SETTINGS, normalise="none"))
    with pytest.raises(CheckpointError, match="normalise fold, not none"):
        evaluate(raw, Task(1, "egemaps", run))
    with pytest.raises(CheckpointError, match="no pre-trained encoders"):
        evaluate(study, Task(1, "egemaps", study.runs / "nothing"))


def test_a_damaged_checkpoint_says_so(make_study):
    study = make_study()
    run = pretrain(study, 1)
    (run / ENCODERS).write_bytes((run / ENCODERS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        evaluate(study, Task(1, "egemaps", run))


def test_nothing_of_the_test_session_reaches_training(make_study):
    """Spoil the test session's features: the pre-trained parameters are the same to the bit."""

    def spoil(utterance, values):
        return values * 100 if utterance.session == 1 else values

    clean, spoiled = make_study(runs="clean"), make_study(runs="spoiled", spoil=spoil)
    digests = [record_of(s, pretrain(s, 1))["params_digest"] for s in (clean, spoiled)]
    assert digests[0] == digests[1]
    tuned = [evaluate(s, Task(1, "mel", s.pretraining_folder(1)))["params_digest"] for s in (clean, spoiled)]
    assert tuned[0] == tuned[1]


def test_every_test_utterance_is_predicted_once_and_scored_by_hand(make_study):
    study = make_study()
    row = evaluate(study, Task(3, "egemaps", None, fraction=0.5, repeat=2))
    lines = (study.runs / row["run"] / "predictions.csv").read_text().splitlines()[1:]
    ids, truth, prediction = zip(*(line.split(",") for line in lines), strict=True)
    expected = {u.id: u.emotion for u in study.corpus.utterances if u.session == 3 and u.emotion != "other"}
    assert dict(zip(ids, truth, strict=True)) == expected
    assert len(ids) == len(expected)
    index = {name: i for i, name in enumerate(study.corpus.classes)}
    numbers = [np.array([index[name] for name in names]) for names in (truth, prediction)]
    assert row["uar"] == pytest.approx(uar(*numbers, 4))
    # sessions 1, 2 and 5 have 6 speakers of two utterances a class, half of which are labelled;
    # "happy" has one a speaker
    assert row["n_labelled"] == 3 * 6 + 3


def test_representations_are_those_that_the_kept_model_reads_and_predicts_from(make_study):
    study = make_study()
    run = pretrain(study, 3)
    found = {
        of: representations(study, 3, "egemaps", of, run) for of in ("random", "pretrained", "supervised")
    }
    row = evaluate(study, Task(3, "egemaps"))
    model, _ = load_arrays(study.runs / row["run"] / "model.safetensors")
    layer = model["classifier"]["Dense_0"]
    data = study.data(3)
    logits = found["supervised"][data.labelled(data.test)] @ layer["kernel"] + layer["bias"]
    lines = (study.runs / row["run"] / "predictions.csv").read_text().splitlines()[1:]
    assert [study.corpus.classes[i] for i in logits.argmax(axis=1)] == [line.split(",")[2] for line in lines]
    assert len(found["random"]) == len(study.corpus.utterances)
    assert not np.allclose(found["random"], found["pretrained"])
    assert not np.allclose(found["supervised"], found["pretrained"])


def test_a_frozen_encoder_stays_and_a_tuned_one_moves(make_study):
    from safetensors.numpy import load_file

    study = make_study()
    run = pretrain(study, 1)
    before = load_file(run / ENCODERS)
    for frozen in (True, False):
        row = evaluate(study, Task(1, "mel", run, frozen=frozen))
        after = load_file(study.runs / row["run"] / "model.safetensors")
        names = [name for name in before if name.startswith("mel.")]
        same = [np.array_equal(before[n], after[n.replace("mel.", "encoder.", 1)]) for n in names]
        assert all(same) if frozen else not any(same)


def test_features_that_say_the_emotion_are_learned(make_study):
    settings = replace(SETTINGS, finetuning=replace(SETTINGS.finetuning, epochs=40, learning_rate=1e-2))
    study = make_study(settings=settings)
    assert evaluate(study, Task(1, "egemaps"))["uar"] > 0.6
    assert evaluate(study, Probe(1, "mel", "probe-raw"))["uar"] > 0.8


def test_a_plan_holds_every_run_once_and_all_ways_see_the_same_labels(make_study):
    study = make_study()
    steps = list(label_efficiency(study, [1], {0.5: 2, 1.0: 1}, per_class={2: 1}, probes=True))
    assert len(steps) == 1 + 4 * 2 * 6 == len({step.folder for step in steps})
    assert plan.there(steps) == []
    (group,) = plan.groups(steps)
    assert group.pretrains
    pretrain(study, 1)
    rows = list(evaluate_all(study, group.runs))
    assert sorted(row["run"] for row in plan.there(steps)) == sorted(row["run"] for row in rows)
    by_subset = {}
    for row in rows:
        by_subset.setdefault((labels(row), row["repeat"]), set()).add(row["n_labelled"])
    assert by_subset["2 a class", 0] == {2 * 4}
    assert all(len(sizes) == 1 for sizes in by_subset.values())


def test_shares_of_a_plan_are_disjoint_and_together_all_of_it(make_study):
    """What follows from one pre-training stays together, so that no process waits for another's."""
    study = make_study()
    variants = [study.pretraining_with(temperature=t) for t in (0.1, 0.5)]
    steps = [s for at in variants for s in label_efficiency(at, [1, 2, 3], {0.5: 2}, probes=True)]
    whole = plan.groups(steps)
    shares = [plan.groups(steps, (i, 4)) for i in (1, 2, 3, 4)]
    assert sum(map(len, shares)) == len(whole) == 6
    assert [group for i in range(6) for group in [shares[i % 4][i // 4]]] == whole
    assert whole[0].title(whole) == "fold 1, tau = 0.1"
    assert (
        plan.groups(list(label_efficiency(study, [2], {0.5: 1}, probes=False)))[0].title(whole[:1])
        == "fold 2"
    )


def test_a_study_of_some_views_names_its_runs_as_one_opened_with_them(make_study):
    both, one = make_study(), make_study(views=VIEWS[1:])
    task = Task(2, "egemaps", None, fraction=0.5)
    assert both.of_views(["egemaps"]).folder(task) == one.folder(task) == both.folder(task)


def test_two_local_devices_give_the_epochs_of_one(make_study):
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, epochs=1))
    views = (
        replace(VIEWS[0], encoder_of=lambda: SpectrogramEncoder(channels=(4, 4, 8), dropout=0.0)),
        VIEWS[1],
    )
    rows = []
    for count in (1, 2):
        study = make_study(runs=f"on{count}", settings=settings, views=views, devices=count)
        rows.append(json.loads((pretrain(study, 1) / "epochs.jsonl").read_text()))
    for name in ("loss", "validation_loss", "retrieval"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4), name


def test_a_fourth_view_is_an_object_and_a_name(make_study):
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
    study = make_study(views=(*VIEWS, states, rhythm))
    run = pretrain(study, 1)
    assert record_of(study, run)["views"] == ["mel", "egemaps", "states", "rhythm"]
    assert evaluate(study, Task(1, "states", run))["uar"] > 0


def test_a_loss_that_is_not_finite_stops_with_epoch_step_view_and_gradient(make_study):
    """A rate without bounds: the first step ruins all parameters, the second step's loss shows it."""
    wild = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, learning_rate=float("inf")))
    with pytest.raises(FloatingPointError) as error:
        pretrain(make_study(settings=wild), 1)
    message = str(error.value)
    assert "in epoch 1, step 2: projections of mel, egemaps not finite" in message
    assert re.search(r"one step before: mel [\d.e+-]+, egemaps [\d.e+-]+; lower --learning-rate", message)


def test_the_view_that_is_not_finite_is_named(make_study):
    class Overflows(FunctionalsEncoder):
        def __call__(self, features, *, train=False):
            return super().__call__(features, train=train) * 1e38 * 1e38

    views = (VIEWS[0], replace(VIEWS[1], encoder_of=lambda: Overflows(widths=(8,))))
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: projections of egemaps not finite; l"):
        pretrain(make_study(views=views), 1)


def test_one_view_cannot_be_pulled_together(make_study):
    with pytest.raises(ValueError, match="give at least two"):
        pretrain(make_study(views=VIEWS[:1]), 1)


def test_too_few_utterances_for_a_batch_is_said(make_study):
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, batch=128))
    with pytest.raises(ValueError, match="48 training utterances, fewer than one batch of 128"):
        pretrain(make_study(settings=settings), 1)


@pytest.mark.parametrize("subset", ["target", "out_of_distribution"])
def test_pretraining_on_a_subset_is_pretraining_on_a_corpus_that_has_nothing_else(make_study, subset):
    corpus = small_corpus(per_speaker=20)
    plain = replace(SETTINGS, normalise="none")
    chosen = replace(plain, pretraining=replace(plain.pretraining, subset=subset))
    digests = []
    for settings, utterances in ((chosen, corpus.utterances), (plain, corpus.subset(subset))):
        study = make_study(
            settings=settings,
            corpus=replace(corpus, utterances=utterances),
            spoil=lambda _, values: np.nan_to_num(values),  # else the training mean, which is of all
        )
        row = record_of(study, pretrain(study, 1))
        digests.append(row["params_digest"])
    assert digests[0] == digests[1]
    whole = make_study(settings=plain, corpus=corpus)
    assert record_of(whole, pretrain(whole, 1))["params_digest"] != digests[0]


def test_a_record_says_what_its_encoder_was_pretrained_on(make_study):
    chosen = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, subset="target"))
    study = make_study(settings=chosen)
    run = pretrain(study, 1)
    assert record_of(study, run)["pretrained_on"] == "target"
    assert evaluate(study, Task(1, "egemaps", run))["pretrained_on"] == "target"
    row = evaluate(study, Task(1, "egemaps"))
    assert row["pretrained_on"] is None
    assert row["protocol"] == record_of(study, run)["protocol"]
    # 8 utterances of each of ten speakers, neutral, angry, sad, happy and other in turn.
    assert (row["counts"], row["utterances"]) == ((20, 20, 20, 10), 80)
    truth, right = np.sum(row["confusion"], axis=1), np.diag(row["confusion"])
    np.testing.assert_allclose(right / truth, row["recall"])


def test_a_subset_that_is_not_there_is_said(make_study):
    corpus = small_corpus()
    corpus = replace(corpus, utterances=corpus.subset("target"))
    settings = replace(SETTINGS, pretraining=replace(SETTINGS.pretraining, subset="out_of_distribution"))
    with pytest.raises(ValueError, match="0 training utterances of other emotions, fewer"):
        pretrain(make_study(settings=settings, corpus=corpus), 1)


def test_normalising_by_speaker_uses_each_speakers_own_audio(make_study):
    """A speaker whose features are all shifted and scaled comes out as if they were not."""

    def louder(utterance, values):
        return values * 3 + 50 if utterance.speaker == "1F" else values

    settings = replace(SETTINGS, normalise="speaker")
    plain = make_study(runs="plain", settings=settings).data(1)
    loud = make_study(runs="loud", settings=settings, spoil=louder).data(1)
    for view in ("mel", "egemaps"):
        a, b = (np.asarray(d.features[view].values) for d in (plain, loud))
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_missing_functionals_are_imputed_counted_and_never_passed_on(make_study):
    data = make_study().data(1)
    assert data.imputed["egemaps"] > 0 == data.imputed["mel"]
    for packed in data.features.values():
        assert np.isfinite(np.asarray(packed.values)).all()


@pytest.mark.slow
def test_killed_at_any_instant_the_same_command_goes_on_to_the_same_parameters(tmp_path):
    """SIGKILL a real `pcl pretrain` of the demo again and again; compare with one left alone."""
    command = [
        *(sys.executable, "-c", "from pcl_jax.cli import main; main()"),
        *("pretrain", "--fold", "1", "--epochs", "12", "--features", str(tmp_path / "features")),
        *("--root", str(tmp_path / "demo"), "--runs"),
    ]

    def digest(runs: Path) -> str:
        (row,) = records.read(runs)
        return row["params_digest"]

    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, str(tmp_path / "left")], check=True, env=environment, timeout=900)
    rng = np.random.default_rng(0)
    for attempt in range(30):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        try:
            process.wait(timeout=float(rng.uniform(4, 14)) + attempt)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            assert process.returncode == 0
            break
    assert digest(tmp_path / "killed") == digest(tmp_path / "left")


def test_a_second_process_on_the_same_run_is_told(make_study):
    study = make_study()
    folder = study.pretraining_folder(1)
    folder.mkdir(parents=True)
    holder = textwrap.dedent(f"""
        import fcntl, sys
        lock = open({str(folder / "states.lock")!r}, "wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(CheckpointError, match="another process"):
            pretrain(study, 1)
        process.kill()
    assert jax.device_count() == 8


class Noting(nn.Module):
    """An encoder that notes with which precision it was compiled."""

    seen: tuple = ()

    @nn.compact
    def __call__(self, features, *, train=False):
        PRECISIONS.append(jax.config.jax_default_matmul_precision)
        return nn.Dense(8)(features)


PRECISIONS: list[str] = []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_that_trains_or_tests_has_the_precision_of_its_study(make_study, precision):
    settings = replace(SETTINGS, precision=precision)
    views = (VIEWS[0], replace(VIEWS[1], encoder_of=lambda: Noting(seen=(precision,))))
    study = make_study(views=views, settings=settings)
    PRECISIONS.clear()
    encoders = pretrain(study, 1)
    pretraining = len(PRECISIONS)
    evaluate(study, Task(1, "egemaps", encoders))
    tuning = len(PRECISIONS)
    evaluate(study, Probe(1, "egemaps", "probe-random"))
    assert 0 < pretraining < tuning < len(PRECISIONS)
    assert set(PRECISIONS) == {precision}
    other = make_study(views=views)
    assert (precision == "float32") == (other.folder(Task(1, "egemaps")) == study.folder(Task(1, "egemaps")))


def test_an_encoder_that_flattens_takes_batches_that_are_not_full(make_study):
    """`--preset authors`: as many frames of no utterance as of one, or the others' would be torn apart."""
    flat = partial(SpectrogramEncoder, channels=(4, 4, 8), pool="flatten", flatten_frames=41)
    settings = replace(
        SETTINGS,
        encoders=config.Encoders(spectral_pool="flatten"),
    )
    study = make_study(
        views=(replace(VIEWS[0], encoder_of=flat, full_frames=41), VIEWS[1]), settings=settings
    )
    encoders = pretrain(study, 1)
    vectors = representations(study, 1, "mel", "pretrained", encoders)
    params, _ = load_encoder(encoders, "mel")
    for row, frames in list(enumerate(study.data(1).iterate_features("mel")))[::9]:
        alone = pack([np.pad(frames, ((0, 41 - len(frames)), (0, 0)))])
        expected = flat().apply({"params": params}, alone)
        np.testing.assert_allclose(vectors[row], expected[0], rtol=1e-4, atol=1e-5)
    evaluate(study, Task(1, "mel", encoders))  # 42 labelled in batches of 16
