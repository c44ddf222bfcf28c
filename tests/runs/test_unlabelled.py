"""How much unlabelled speech, and whose: other corpora beside a fold's, and choices of so many utterances."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pcl_jax import config
from pcl_jax.data.load import ExtraCorpus
from pcl_jax.runs.runner import evaluate, pretrain
from pcl_jax.runs.study import Task
from pcl_jax.training.pretrain import pretraining_rows
from tests.runs.conftest import SETTINGS, small_corpus


@pytest.fixture
def other(make_study):
    """Another corpus: louder, in another room; and its labels say something else."""

    def make(name="other", emotion: str | None = None) -> ExtraCorpus:
        utterances = small_corpus(per_speaker=3).utterances
        study = make_study(
            runs=f"runs of {name}",
            corpus=replace(small_corpus(), name=name, utterances=utterances),
            spoil=lambda _, values: 5 * values + 100,
        )
        labelled = tuple(replace(u, emotion=emotion or u.emotion) for u in utterances)
        return ExtraCorpus(replace(study.corpus, utterances=labelled), study.stores)

    return make


def test_other_corpora_change_no_row_of_the_fold_and_are_scaled_by_themselves(make_study, other):
    study = make_study()
    together = study.pretraining_beside([other()])
    alone, data = study.data(1), together.pretraining_data(1)
    assert np.array_equal(alone.every_row, data.every_row)
    assert len(data.extra) == 30
    assert not len(alone.extra)
    assert (data.labels[data.extra] == -1).all()
    for view, packed in alone.features.items():
        count = len(packed.values)
        assert np.array_equal(packed.values, data.features[view].values[:count])
        theirs = np.asarray(data.features[view].values[count:], np.float64)
        np.testing.assert_allclose(theirs.mean(axis=0), 0, atol=1e-4)
        varying = theirs.std(axis=0) > 0
        np.testing.assert_allclose(theirs.std(axis=0)[varying], 1, atol=0.2)  # imputed values are 0
    # Row by row: an utterance of the other corpus has its own features in every view.
    mel = data.features["mel"]
    store = together.beside[0].stores["mel"]
    for row, u in zip(data.extra, together.beside[0].corpus.utterances, strict=True):
        assert data.ids[row] == f"other: {u.id}"
        assert mel.lengths[row] == len(store[u.id])


def test_their_labels_are_not_used_and_the_record_names_them(make_study, other):
    digests = []
    for name, emotion in (("a", None), ("b", "angry")):
        study = make_study(runs=name).pretraining_beside([other(emotion=emotion)])
        run = pretrain(study, 1)
        row = study.done()[study.relative(run)]
        assert (row["pretrained_on"], row["n_pretrained"]) == ("all + other", 48 + 30)
        digests.append(row["params_digest"])
    assert digests[0] == digests[1]
    tuned = evaluate(study, Task(1, "egemaps", run))
    assert (tuned["pretrained_on"], tuned["n_pretrained"]) == ("all + other", 78)
    plain = make_study(runs="plain")
    run = pretrain(plain, 1)
    row = plain.done()[plain.relative(run)]
    assert row["params_digest"] != digests[0]
    assert row["protocol"] == tuned["protocol"]


def test_a_corpus_that_holds_a_recording_of_this_one_is_refused(make_study):
    study = make_study()
    same = make_study(runs="same")  # under any name
    with pytest.raises(ValueError, match="1F00 of copy is the same recording as 1F00 of small: "):
        study.pretraining_beside([ExtraCorpus(replace(same.corpus, name="copy"), same.stores)])


def test_fewer_utterances_are_among_more_and_none_is_of_another_session(make_study):
    data = make_study().data(3)
    chosen = [
        set(pretraining_rows(data, replace(SETTINGS.pretraining, utterances=count), seed=0).tolist())
        for count in (10, 20, 47, 48, 1000)
    ]
    assert [len(rows) for rows in chosen] == [10, 20, 47, 48, 48]
    for few, many in pairwise(chosen):
        assert few <= many
    assert chosen[-1] == set(data.train.tolist())
    target = config.Pretraining(subset="target", utterances=20)
    rows = pretraining_rows(data, target, seed=0)
    assert len(rows) == 20
    assert (data.labels[rows] >= 0).all()
    assert set(pretraining_rows(data, target, seed=1).tolist()) != set(rows.tolist())
