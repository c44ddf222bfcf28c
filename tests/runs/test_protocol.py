"""Identities: by content, never by name; a new setting with its default changes none."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from pcl_jax import config
from pcl_jax.runs.protocol import Protocol
from pcl_jax.runs.results import saved_encoders
from pcl_jax.runs.spec import Finetune, Labels, Pretrain, Probe, settings_in_full
from tests.runs.conftest import SETTINGS, VIEWS, finetune, small_corpus

PROTOCOL = Protocol("corpus", "recordings", "labels", {"mel": "1", "egemaps": "2"})
START = Pretrain(1, ("mel", "egemaps"))
TUNED = Finetune(1, "mel", START)


@dataclass(frozen=True)
class PretrainingOfTomorrow(config.Pretraining):
    """A later version's settings: one more field, with its default."""

    warm_up: int = 0


def with_pretraining(options: config.Pretraining) -> Pretrain:
    return replace(START, settings=replace(START.settings, pretraining=options))


def test_a_new_setting_with_its_default_leaves_every_identity_as_it_is():
    tomorrow = with_pretraining(PretrainingOfTomorrow())
    assert PROTOCOL.identity(tomorrow) == PROTOCOL.identity(START)
    assert PROTOCOL.identity(Finetune(1, "mel", tomorrow)) == PROTOCOL.identity(TUNED)
    changed = with_pretraining(PretrainingOfTomorrow(warm_up=3))
    assert PROTOCOL.identity(changed) != PROTOCOL.identity(START)
    assert settings_in_full(changed)["pretraining"]["warm_up"] == 3


@pytest.mark.parametrize(
    "other",
    [
        replace(START, fold=2),
        replace(START, views=("egemaps", "mel")),
        with_pretraining(config.Pretraining(temperature=0.1)),
        replace(START, settings=config.Settings(normalise="speaker")),
        replace(START, settings=config.Settings(precision="bfloat16")),
    ],
)
def test_whatever_decides_a_pretraining_is_in_its_identity_and_in_that_of_what_starts_from_it(other):
    assert PROTOCOL.identity(other) != PROTOCOL.identity(START)
    assert PROTOCOL.identity(Finetune(1, "mel", other)) != PROTOCOL.identity(TUNED)


def test_settings_that_a_run_does_not_use_are_in_neither_its_identity_nor_its_record():
    settings = config.Settings(
        pretraining=config.Pretraining(temperature=0.1), finetuning=config.Finetuning(epochs=3)
    )
    assert replace(START, settings=replace(settings, pretraining=config.Pretraining())) == START
    supervised = Finetune(1, "mel", settings=settings)
    assert supervised == Finetune(1, "mel", settings=replace(settings, pretraining=config.Pretraining()))
    assert set(settings_in_full(supervised)) == {"normalise", "encoders", "finetuning", "precision"}
    assert settings_in_full(Probe(1, "mel", "probe-raw", settings=settings)) == {"normalise": "fold"}


def test_labels_are_in_the_identity_of_a_run_exactly_if_it_uses_them():
    relabelled = replace(PROTOCOL, labels="other classes")
    assert relabelled.identity(START) == PROTOCOL.identity(START)
    chosen = with_pretraining(config.Pretraining(subset="target"))
    assert relabelled.identity(chosen) != PROTOCOL.identity(chosen)
    assert relabelled.identity(TUNED) != PROTOCOL.identity(TUNED)
    assert relabelled.data != PROTOCOL.data


def test_names_decide_nothing_and_content_everything():
    renamed = replace(PROTOCOL, corpus="other name")
    assert renamed.identity(TUNED) == PROTOCOL.identity(TUNED)
    for other in (
        replace(PROTOCOL, recordings="others"),
        replace(PROTOCOL, features={"mel": "of a newer version", "egemaps": "2"}),
        replace(PROTOCOL, seed=1),
    ):
        assert other.identity(TUNED) != PROTOCOL.identity(TUNED)
    probe = Probe(1, "mel", "probe-raw")
    few = [Labels(0.02), Labels(0.024), Labels(1.0, 2), Labels(1.0, 2, 1)]
    identities = {PROTOCOL.identity(replace(probe, labels=labels)) for labels in few}
    assert len(identities | {PROTOCOL.identity(probe)}) == 5


def test_a_changed_class_asks_for_no_new_pretraining(make_runner):
    """The encoders have never seen a label."""
    four = make_runner()
    four.pretrain(four.pretraining(1))
    two = replace(small_corpus(), targets={"neutral": ("neutral",), "sad": ("sad",)})
    runner = make_runner(corpus=two)
    assert runner.ledger.find(runner.pretraining(1))
    row = finetune(runner, 1, "egemaps", runner.pretraining(1))
    assert row["classes"] == ["neutral", "sad"]


@pytest.mark.slow
def test_two_pretrainings_in_folders_of_one_name_are_two(make_runner, monkeypatch):
    found = {}
    for tau in (0.1, 0.5):
        runner = make_runner(runs=f"tau{tau}")
        folder = runner.pretrain(runner.pretraining(1, temperature=tau))
        place = Path(folder).parents[2] / f"at{tau}" / "encoders"
        place.parent.mkdir()
        folder.rename(place)
        monkeypatch.chdir(place)
        found[tau] = saved_encoders(Path("."))
    runner = make_runner(runs="tuned")
    rows = [finetune(runner, 1, "egemaps", found[tau]) for tau in (0.1, 0.5)]
    assert rows[0]["run"] != rows[1]["run"]
    assert rows[0]["params_digest"] != rows[1]["params_digest"]
    assert [row["temperature"] for row in rows] == [0.1, 0.5]
    assert [row["settings"]["pretraining"]["temperature"] for row in rows] == [0.1, 0.5]
    assert rows[0]["method"] == "pairwise-cl"


def test_a_folder_and_the_spec_that_made_it_ask_for_the_same_run(make_runner):
    runner = make_runner()
    start = runner.pretraining(1)
    folder = runner.pretrain(start)
    pointed = Finetune(1, "mel", saved_encoders(folder), settings=SETTINGS)
    assert runner.ledger.folder(pointed) == runner.ledger.folder(Finetune(1, "mel", start, settings=SETTINGS))


def test_two_corpora_of_one_name_share_no_record(make_runner):
    runners = [make_runner(runs=f"of{n}", corpus=small_corpus(per_speaker=n)) for n in (7, 8)]
    rows = [finetune(runner, 1, "egemaps") for runner in runners]
    assert rows[0]["run"] != rows[1]["run"]
    assert rows[0]["recordings"] != rows[1]["recordings"]
    assert rows[0]["protocol"] != rows[1]["protocol"]
    assert rows[0]["features"] == {"egemaps": config.digest(VIEWS[1].describe())}


def test_a_record_holds_the_settings_of_its_run_in_full(make_runner):
    runner = make_runner()
    runner.pretrain(runner.pretraining(1, temperature=0.25))
    row = finetune(runner, 1, "mel", runner.pretraining(1, temperature=0.25))
    expected = {
        "normalise": "fold",
        "precision": "float32",
        "encoders": asdict(SETTINGS.encoders),
        "finetuning": asdict(SETTINGS.finetuning),
        "pretraining": asdict(replace(SETTINGS.pretraining, temperature=0.25)),
    }
    assert row["settings"] == json.loads(json.dumps(expected))
    assert row["start"] == runner.protocol.identity(runner.pretraining(1, temperature=0.25))


DEFAULTS = {
    "normalise": "fold",
    "precision": "float32",
    "encoders": {"dropout": 0.2, "spectral_pool": "mean", "init": "flax"},
    "pretraining": {
        "subset": "all", "utterances": None, "epochs": 100, "batch": 128, "learning_rate": 1e-3,
        "objective": "pairwise", "temperature": 0.5, "patience": 30, "plateau_factor": 1.0,
        "plateau_patience": 10, "plateau_threshold": 0.0,
    },
    "finetuning": {
        "epochs": 100, "batch": 64, "learning_rate": 1e-3, "plateau_factor": 0.9, "plateau_patience": 5,
        "patience": 50, "frozen_dropout": True, "standardise": False,
    },
}  # fmt: skip
"""Defaults of training version 2: an identity leaves them out, so that they must stay what they are."""


def test_a_default_changes_only_together_with_the_training_version():
    assert config.TRAINING_VERSION == 2, "a new version: put its defaults into DEFAULTS"
    assert asdict(config.Settings()) == DEFAULTS, (
        "a changed default needs a new version; a new field its line"
    )
