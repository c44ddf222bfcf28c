"""How much unlabelled speech, and whose: other corpora beside a fold's, and choices of so many utterances."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pcl_jax import config
from pcl_jax.data.load import ExtraCorpus
from pcl_jax.runs.spec import Pretrain
from pcl_jax.training.pretrain import pretraining_rows
from tests.runs.conftest import SETTINGS, finetune, small_corpus


@pytest.fixture
def make_extra(make_runner):
    """Another corpus: louder, in another room; and its labels say something else."""

    def make(name="other", emotion: str | None = None) -> ExtraCorpus:
        utterances = small_corpus(per_speaker=3).utterances
        runner = make_runner(
            runs=f"runs of {name}",
            corpus=replace(small_corpus(), name=name, utterances=utterances),
            spoil=lambda _, values: 5 * values + 100,
        )
        labelled = tuple(replace(u, emotion=emotion or u.emotion) for u in utterances)
        return ExtraCorpus(replace(runner.corpus, utterances=labelled), runner.loader.stores)

    return make


def with_extra(runner, fold: int) -> Pretrain:
    return replace(runner.pretraining(fold), extra_corpora=tuple(runner.extra_corpora))


def test_extra_corpora_change_no_row_of_the_fold_and_are_scaled_by_themselves(make_runner, make_extra):
    runner = make_runner(extra_corpora={"other": make_extra()})
    alone = runner.data(runner.pretraining(1))
    data = runner.data(with_extra(runner, 1))
    assert np.array_equal(alone.every_row, data.every_row)
    assert len(data.extra) == 30
    assert not len(alone.extra)
    assert (data.labels[data.extra] == -1).all()
    for view, packed in alone.features.items():
        count = len(packed.values)
        assert np.array_equal(packed.values, data.features[view].values[:count])
        added = np.asarray(data.features[view].values[count:], np.float64)
        np.testing.assert_allclose(added.mean(axis=0), 0, atol=1e-4)
        varying = added.std(axis=0) > 0
        np.testing.assert_allclose(added.std(axis=0)[varying], 1, atol=0.2)  # imputed values are 0
    # Row by row: an utterance of the other corpus has its own features in every view.
    mel = data.features["mel"]
    extra = runner.extra_corpora["other"]
    for row, u in zip(data.extra, extra.corpus.utterances, strict=True):
        assert data.ids[row] == f"other: {u.id}"
        assert mel.lengths[row] == len(extra.stores["mel"][u.id])


@pytest.mark.slow
def test_labels_of_extra_corpora_are_not_used_and_the_record_names_them(make_runner, make_extra):
    digests = []
    for name, emotion in (("a", None), ("b", "angry")):
        runner = make_runner(runs=name, extra_corpora={"other": make_extra(emotion=emotion)})
        start = with_extra(runner, 1)
        runner.pretrain(start)
        row = runner.ledger.find(start)
        assert (row["pretrained_on"], row["n_pretrained"]) == ("all + other", 48 + 30)
        digests.append(row["params_digest"])
    assert digests[0] == digests[1]
    tuned = finetune(runner, 1, "egemaps", start)
    assert (tuned["pretrained_on"], tuned["n_pretrained"]) == ("all + other", 78)
    plain = runner.pretraining(1)
    runner.pretrain(plain)
    row = runner.ledger.find(plain)
    assert row["params_digest"] != digests[0]
    assert row["protocol"] == tuned["protocol"]


def test_a_corpus_that_holds_a_recording_of_this_one_is_refused(make_runner):
    same = make_runner(runs="same")  # under any name
    copy = ExtraCorpus(replace(same.corpus, name="copy"), same.loader.stores)
    with pytest.raises(ValueError, match="1F00 of copy is the same recording as 1F00 of small: "):
        make_runner(extra_corpora={"copy": copy})


def test_fewer_utterances_are_among_more_and_none_is_of_another_session(make_runner):
    runner = make_runner()
    data = runner.data(runner.pretraining(3))
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
