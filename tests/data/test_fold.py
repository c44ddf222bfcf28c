"""Features on the device, or on their way there from disk: no result may tell which."""

import jax
import numpy as np
import pytest

from pcl_jax.data import fold as fold_data
from pcl_jax.devices import device_memory, mesh
from pcl_jax.features.store import Store, StoreError
from pcl_jax.models.encoders import HiddenStatesEncoder
from pcl_jax.runs.records import params_digest
from pcl_jax.runs.spec import Finetune, Labels
from pcl_jax.training.finetune import Run, finetune, init_params
from pcl_jax.training.parallel_runs import max_runs_per_program
from pcl_jax.training.probe import pool_features
from tests.runs.conftest import SETTINGS, VIEWS, FakeView

STATES = FakeView(
    "states",
    lambda: HiddenStatesEncoder(widths=(8, 8)),
    lambda rng, emotion: rng.normal(emotion, size=(int(rng.integers(32, 40)), 3, 6)).astype(np.float32),
    normalised=False,
)
ALL = (*VIEWS, STATES)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_read_batch_by_batch_pretrains_to_the_same_bits(make_runner, devices):
    digests = []
    for runs, share in (("memory", 0.5), ("disk", 0.0)):
        runner = make_runner(runs=runs, views=(VIEWS[1], STATES), devices=devices, memory_share=share)
        assert set(runner.data(runner.pretraining(1)).on_disk) == ({"states"} if share == 0 else set())
        folder = runner.pretrain(runner.pretraining(1))
        digests.append(runner.ledger.find(runner.pretraining(1))["params_digest"])
        epochs = (folder / "epochs.jsonl").read_text()
        assert ('"waiting": 0.0,' in epochs) == (share > 0)
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_what_is_read_batch_by_batch_is_fine_tuned_and_probed_to_the_same(make_runner):
    found = []
    for runs, share in (("memory", 0.5), ("disk", 0.0)):
        runner = make_runner(runs=runs, views=(STATES,), memory_share=share)
        data, model = runner.data(runner.pretraining(1)), runner.network("states", runner.settings)
        spec = Finetune(1, "states", labels=Labels(0.5), settings=runner.settings)
        tuned = runner.run_one(spec)
        encoder = init_params(model, data.example()["states"], seed=9)["encoder"]
        rows = data.rows(runner.labelled(spec))
        (frozen,) = finetune(
            data,
            model,
            [Run(rows, 0, encoder)],
            SETTINGS.finetuning,
            frozen=True,
            seed=0,
            mesh=runner.mesh,
        )
        found.append((tuned["params_digest"], tuned["uar"], params_digest(jax.device_get(frozen.params))))
        found[-1] += (pool_features(data, "states").tobytes(),)
    assert found[0] == found[1]


def test_the_largest_hidden_states_are_left_on_disk_and_nothing_else(make_runner):
    wider = FakeView("wider", STATES.encoder_of, lambda rng, _: np.zeros((90, 3, 6), np.float32), False)
    runner = make_runner(views=(*ALL, wider))
    ids = tuple(runner.loader.stores["mel"])
    size = {view: sum(store[id].nbytes for id in ids) for view, store in runner.loader.stores.items()}

    def left(budget):
        whole_mib = device_memory(runner.mesh) // 2**20 * 2**20
        small = make_runner(views=(*ALL, wider), memory_share=budget / whole_mib)
        return set(small.data(small.pretraining(1)).on_disk)

    assert left(sum(size.values()) + 1) == set()  # 1: the share is rounded
    assert left(sum(size.values()) - 1) == {"wider"}
    assert left(size["mel"] + size["egemaps"] + size["states"] - 1) == {"wider", "states"}
    assert left(0) == {"wider", "states"}


def test_from_disk_each_device_trains_one_run_at_a_time(make_runner):
    """A batch of many runs would bring most of the features that were to stay there."""
    for share, expected in ((0.0, 8), (0.5, 8 * 32)):
        runner = make_runner(views=(STATES,), devices=8, memory_share=share)
        size = max_runs_per_program(
            runner.data(runner.pretraining(1)),
            runner.network("states", runner.settings),
            runner.mesh,
            frozen=True,
        )
        assert size == expected


def test_no_more_is_read_ahead_than_is_said(make_runner, monkeypatch):
    runner = make_runner(views=ALL, memory_share=0.0)
    data, reads, packed = runner.data(runner.pretraining(1)), [], Store.packed
    monkeypatch.setattr(Store, "packed", lambda *a, **how: reads.append(1) or packed(*a, **how))
    batches = data.batches(data.train, 8, mesh(1), drop_last=True)
    for seen, batch in enumerate(batches, start=1):
        assert batch.utterances == 8
        assert seen <= len(reads) <= seen + fold_data.PREFETCH
    assert seen == len(reads) == len(data.train) // 8


def test_a_part_that_is_damaged_stops_training_with_its_name(make_runner, monkeypatch):
    runner = make_runner(views=ALL, memory_share=0.0)
    data = runner.data(runner.pretraining(1))

    def fails(*_, **__):
        raise StoreError("part-00000.arrow: damaged")

    monkeypatch.setattr(Store, "packed", fails)
    with pytest.raises(StoreError, match=r"part-00000\.arrow"):
        list(data.batches(data.train, 8, mesh(1), drop_last=True))
