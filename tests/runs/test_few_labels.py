"""Runs of few labels: which labels are read, what is recorded, and that nothing is done twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pcl_jax.corpora.utterance import Corpus
from pcl_jax.runs import few_labels
from pcl_jax.runs.spec import FewLabels, Labels, settings_in_full
from pcl_jax.runs.workspace import Workspace
from pcl_jax.training.recipe import METHODS
from tests.runs.conftest import CLASSES, SETTINGS, VIEWS, small_corpus

KINDS = ("frames", "vector")
VIEWS_OF_KINDS = tuple(replace(view, kind=kind) for view, kind in zip(VIEWS, KINDS, strict=True))
NAMES = tuple(view.name for view in VIEWS)


@pytest.fixture
def make(make_runner):
    return lambda **words: make_runner(**({"views": VIEWS_OF_KINDS} | words))


def spec(method: str, **words) -> FewLabels:
    return FewLabels(
        **({"fold": 2, "views": NAMES, "method": method, "labels": Labels(0.25, None, 1)} | words)
    )


def spoiled(corpus: Corpus, kept: set[str]) -> Corpus:
    """Return the corpus with every label but those of some utterances replaced by another, or by none."""
    names = (*CLASSES, "other")
    rng = np.random.default_rng(3)
    utterances = [
        u if u.id in kept else replace(u, emotion=names[(names.index(u.emotion) + rng.integers(1, 5)) % 5])
        for u in corpus.utterances
    ]
    return replace(corpus, utterances=tuple(utterances))


@pytest.mark.parametrize("method", METHODS)
def test_no_label_outside_the_budget_is_read(make, method, monkeypatch):
    """All other labels of training and validation are garbage, and predictions are equal to the bit."""
    corpus = small_corpus(per_speaker=15)
    runner, asked = make(corpus=corpus), spec(method)
    runner.run_one(asked)
    fold = runner.loader.folds[2]
    budget = {u.id for u in runner.labelled(asked)}
    garbage = spoiled(corpus, budget | {u.id for u in fold.test})
    changed = sum(u.emotion != v.emotion for u, v in zip(corpus.utterances, garbage.utterances, strict=True))
    assert changed == len(fold.train) + len(fold.validation) - len(budget) > 80
    # The features are those of the true emotions; the draw of the budget, which is stratified, is held.
    monkeypatch.setattr(
        Workspace, "labelled", lambda self, _: tuple(u for u in garbage.utterances if u.id in budget)
    )
    other = make(corpus=garbage, runs="runs")
    assert other.protocol.labels != runner.protocol.labels
    other.run_one(asked)
    first, second = runner.ledger.predictions(asked), other.ledger.predictions(asked)
    assert runner.ledger.folder(asked) != other.ledger.folder(asked)
    assert first.test_ids == second.test_ids
    assert first.test.tobytes() == second.test.tobytes()


def test_a_label_within_the_budget_is_read(make, monkeypatch):
    """The test above could not fail if predictions hung on nothing."""
    asked, found = spec("probe"), []
    for right in (True, False):
        runner = make(runs=f"right-{right}")
        true = few_labels.budget(runner, asked)
        labels = true if right else np.where(true >= 0, (true + 1) % 4, -1)
        monkeypatch.setattr(few_labels, "budget", lambda *_, labels=labels: labels)
        found.append(runner.run_one(asked)["uar"])
        monkeypatch.undo()
    assert found[0] > found[1] + 0.3


def test_the_validation_session_takes_no_part_and_unlabelled_test_utterances_are_not_scored(make):
    runner, asked = make(), spec("fusion")
    row = runner.run_one(asked)
    fold = runner.loader.folds[2]
    predictions = runner.ledger.predictions(asked)
    assert predictions.validation.shape == (0, 4)
    assert predictions.test_ids == tuple(u.id for u in fold.test if u.emotion != "other")
    np.testing.assert_allclose(np.exp(predictions.test).sum(axis=1), 1, rtol=1e-5)
    assert row["validation_uar"] is None


def test_a_record_says_what_was_chosen_and_counts_each_speaker(make):
    runner, asked = make(), spec("recipe")
    row = runner.run_one(asked)
    assert row["method"] == "recipe"
    assert row["view"] == "mel+egemaps"
    assert row["n_labelled"] == len(runner.labelled(asked)) == (few_labels.budget(runner, asked) >= 0).sum()
    assert row["normalise"] in ("fold", "speaker")
    assert {"weights", "temperature"} < set(row["choice"])
    assert set(row["values"]) == {"Brier", "calibration error"}
    right, total = np.array(list(row["by_speaker"].values())).transpose(1, 0, 2)
    assert set(row["by_speaker"]) == {"2F", "2M"}
    np.testing.assert_array_equal(right.sum(axis=0), np.diag(row["confusion"]))
    np.testing.assert_array_equal(total.sum(axis=0), np.sum(row["confusion"], axis=1))


def test_finished_runs_are_not_done_again(make, monkeypatch):
    runner = make()
    specs = [spec(method) for method in ("probe", "fusion")]
    first = list(runner.run_all(specs))
    monkeypatch.setattr(few_labels, "run", None)
    assert list(runner.run_all(specs)) == first


def test_settings_of_networks_are_in_no_identity_without_a_pretraining():
    slow = replace(SETTINGS, normalise="speaker")
    assert spec("probe", settings=slow) == spec("probe")
    assert settings_in_full(spec("probe")) == {}


def test_pretrained_representations_stand_beside_the_plain_vectors(make_runner, tmp_path: Path):
    runner = make_runner()
    start = runner.pretraining(2)
    runner.pretrain(start)
    asked = spec("fusion", start=start, settings=SETTINGS)
    learned = {view: runner.representations(start, view, "pretrained", SETTINGS) for view in NAMES}
    material = few_labels.read(runner, asked, learned)
    fold = runner.loader.folds[2]
    assert len(material.train["mel"]) == len(fold.train)
    first_test_row = len(fold.train) + len(fold.validation)
    np.testing.assert_array_equal(material.test["egemaps"][0][12:20], learned["egemaps"][first_test_row])
    assert asked.name == "pretrained+fusion"
    assert "pretrained+fusion" in runner.ledger.name(asked)


def test_joined_vectors_weigh_about_the_same():
    joined = few_labels.beside(np.zeros((2, 40), np.float32), np.ones((2, 12), np.float32))
    assert joined.sum(axis=1).tolist() == [36, 36]  # thrice twelve columns beside forty
