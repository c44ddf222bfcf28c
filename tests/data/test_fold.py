"""Features on the device, or on their way there from disk: no result may tell which."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from pcl_jax.data import fold as fold_data
from pcl_jax.devices import device_memory, mesh
from pcl_jax.features.store import Store, StoreError
from pcl_jax.models.encoders import HiddenStatesEncoder
from pcl_jax.runs.records import params_digest
from pcl_jax.runs.runner import evaluate, pretrain
from pcl_jax.runs.study import Task
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


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_read_batch_by_batch_pretrains_to_the_same_bits(make_study, devices):
    digests = []
    for runs, resident in (("resident", 0.5), ("disk", 0.0)):
        study = replace(make_study(runs=runs, views=(VIEWS[1], STATES), devices=devices), resident=resident)
        assert set(study.data(1).on_disk) == ({"states"} if resident == 0 else set())
        folder = pretrain(study, 1)
        digests.append(study.done()[study.relative(folder)]["params_digest"])
        epochs = (folder / "epochs.jsonl").read_text()
        assert ('"waiting": 0.0,' in epochs) == (resident > 0)
    assert digests[0] == digests[1]


def test_what_is_read_batch_by_batch_is_fine_tuned_and_probed_to_the_same(make_study):
    found = []
    for runs, resident in (("resident", 0.5), ("disk", 0.0)):
        study = replace(make_study(runs=runs, views=(STATES,)), resident=resident)
        data, model = study.data(1), study.model("states")
        tuned = evaluate(study, Task(1, "states", fraction=0.5))
        encoder = init_params(model, data.example()["states"], seed=9)["encoder"]
        rows = data.rows(study.subset(Task(1, "states", fraction=0.5)))
        (frozen,) = finetune(
            data,
            model,
            [Run(rows, 0, encoder)],
            SETTINGS.finetuning,
            frozen=True,
            seed=0,
            mesh=study.mesh,
        )
        found.append((tuned["params_digest"], tuned["uar"], params_digest(jax.device_get(frozen.params))))
        found[-1] += (pool_features(data, "states").tobytes(),)
    assert found[0] == found[1]


def test_the_largest_hidden_states_are_left_on_disk_and_nothing_else(make_study):
    wider = FakeView("wider", STATES.encoder_of, lambda rng, _: np.zeros((90, 3, 6), np.float32), False)
    study = make_study(views=(*ALL, wider))
    ids = tuple(study.stores["mel"])
    size = {view: sum(store[id].nbytes for id in ids) for view, store in study.stores.items()}

    def left(budget):
        whole_mib = device_memory(study.mesh) // 2**20 * 2**20
        return set(replace(study, resident=budget / whole_mib).data(1).on_disk)

    assert left(sum(size.values()) + 1) == set()  # 1: the share is rounded
    assert left(sum(size.values()) - 1) == {"wider"}
    assert left(size["mel"] + size["egemaps"] + size["states"] - 1) == {"wider", "states"}
    assert left(0) == {"wider", "states"}


def test_from_disk_each_device_trains_one_run_at_a_time(make_study):
    """A batch of many runs would bring most of the features that were to stay there."""
    for resident, expected in ((0.0, 8), (0.5, 8 * 32)):
        study = replace(make_study(views=(STATES,), devices=8), resident=resident)
        size = max_runs_per_program(study.data(1), study.model("states"), study.mesh, frozen=True)
        assert size == expected


def test_no_more_is_read_ahead_than_is_said(make_study, monkeypatch):
    study = replace(make_study(views=ALL), resident=0.0)
    data, reads, packed = study.data(1), [], Store.packed
    monkeypatch.setattr(Store, "packed", lambda *a, **how: reads.append(1) or packed(*a, **how))
    batches = data.batches(data.train, 8, mesh(1), drop_last=True)
    for seen, batch in enumerate(batches, start=1):
        assert batch.utterances == 8
        assert seen <= len(reads) <= seen + fold_data.PREFETCH
    assert seen == len(reads) == len(data.train) // 8


def test_a_part_that_is_damaged_stops_training_with_its_name(make_study, monkeypatch):
    study = replace(make_study(views=ALL), resident=0.0)
    data = study.data(1)

    def fails(*_, **__):
        raise StoreError("part-00000.arrow: damaged")

    monkeypatch.setattr(Store, "packed", fails)
    with pytest.raises(StoreError, match=r"part-00000\.arrow"):
        list(data.batches(data.train, 8, mesh(1), drop_last=True))
