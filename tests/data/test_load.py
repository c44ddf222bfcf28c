"""The loader keeps one fold in memory, and shares it between runs without a trace in any result."""

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pcl_jax.data.fold import FoldData
from pcl_jax.data.load import ExtraCorpus, FoldLoader, choose_on_disk
from pcl_jax.devices import device_memory
from pcl_jax.features.store import Store
from tests.data.test_fold import STATES
from tests.runs.conftest import VIEWS, small_corpus

NORMALISE = {"mel": "fold", "egemaps": "fold"}


@pytest.fixture
def runner(make_runner):
    return make_runner(views=(*VIEWS, STATES))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The views whose features are read in full, in order."""
    views, packed = [], Store.packed

    def watched(store, ids, **options):
        if len(ids) == 80:  # the whole corpus; `fit` reads the training utterances alone
            views.append(store.metadata["view"])
        return packed(store, ids, **options)

    monkeypatch.setattr(Store, "packed", watched)
    return views


def make_loader(runner, memory_share: float = 0.5) -> FoldLoader:
    return FoldLoader(runner.corpus, runner.loader.folds, runner.loader.stores, runner.mesh, memory_share)


def contents(data: FoldData) -> Mapping[str, Any]:
    """Everything that training reads, on the host."""
    packed = jax.tree.map(np.asarray, dict(data.features))
    normalisers = {view: each.to_arrays() for view, each in data.normalisers.items()}
    (capacities,) = data.layout.capacities(data.lengths, [data.train[:5]])
    return {
        "ids": data.ids,
        "features": packed,
        "lengths": dict(data.lengths),
        "labels": data.labels,
        "imputed": dict(data.imputed),
        "on_disk": sorted(data.on_disk),
        "normalisers": normalisers,
        "capacities": capacities,
    }


def assert_same(one: FoldData, other: FoldData) -> None:
    jax.tree.map(np.testing.assert_array_equal, contents(one), contents(other))


@pytest.mark.parametrize("memory_share", [0.5, 0.0])
@pytest.mark.parametrize("views", [["mel"], ["egemaps", "states"], ["states", "mel"]])
def test_some_views_of_a_loaded_fold_are_what_loading_them_alone_gives(runner, views, memory_share):
    shared = make_loader(runner, memory_share)
    whole = shared.load(1, ["mel", "egemaps", "states"], normalise=NORMALISE)
    alone = make_loader(runner, memory_share).load(1, views, normalise=NORMALISE)
    assert list(alone.imputed) == views
    assert_same(shared.load(1, views, normalise=NORMALISE), alone)
    assert_same(whole.select_views(views), alone)


def test_a_view_that_the_fold_lacks_is_an_error_that_names_it(runner):
    data = make_loader(runner).load(1, ["mel"], normalise=NORMALISE)
    with pytest.raises(KeyError, match="no view 'states'"):
        data.select_views(["states"])


def test_runs_on_one_fold_read_each_view_once(runner, reads):
    loader = make_loader(runner)
    first = loader.load(1, ["mel", "egemaps"], normalise=NORMALISE)
    again = loader.load(1, ["mel"], normalise=NORMALISE, fixed_lengths={"mel": 50})
    loader.load(1, ["states", "mel"], normalise=NORMALISE)
    assert reads == ["mel", "egemaps", "states"]
    assert again.features["mel"] is first.features["mel"]
    assert (first.layout.fixed_lengths, again.layout.fixed_lengths) == ((), (("mel", 50),))


def test_another_normalisation_reads_its_views_again_and_only_those(runner, reads):
    loader = make_loader(runner)
    loader.load(1, ["mel", "egemaps"], normalise=NORMALISE)
    other = {"mel": "none", "egemaps": "fold"}
    assert_same(
        loader.load(1, ["mel", "egemaps"], normalise=other),
        make_loader(runner).load(1, ["mel", "egemaps"], normalise=other),
    )
    assert reads[:3] == ["mel", "egemaps", "mel"]


@pytest.mark.slow
def test_the_previous_fold_is_released_before_the_next_is_read(runner, monkeypatch):
    loader = make_loader(runner)
    views = ["mel", "states"]
    held = [
        weakref.ref(packed.values) for packed in loader.load(1, views, normalise=NORMALISE).features.values()
    ]
    assert all(array() is not None for array in held)
    packed, alive = Store.packed, []

    def watched(*arguments, **options):
        gc.collect()
        alive.extend(array() is not None for array in held)
        return packed(*arguments, **options)

    monkeypatch.setattr(Store, "packed", watched)
    loader.load(2, views, normalise=NORMALISE)
    assert alive
    assert not any(alive)


def test_views_that_are_not_requested_make_room_first(runner, reads):
    """Room for the hidden states or the other two: each pair is in memory as if it were alone."""
    size = {view: sum(store[id].nbytes for id in store) for view, store in runner.loader.stores.items()}
    whole_mib = device_memory(runner.mesh) // 2**20 * 2**20
    loader = make_loader(runner, (size["states"] + size["egemaps"] + 1) / whole_mib)
    loader.load(1, ["mel", "egemaps"], normalise=NORMALISE)
    data = loader.load(1, ["states", "egemaps"], normalise=NORMALISE)
    assert not data.on_disk
    assert set(loader._loaded) == {"states", "egemaps"}
    assert reads == ["mel", "egemaps", "states"]


def test_normalisers_are_those_of_the_fold_without_extra_corpora(runner, make_runner):
    foreign = make_runner(
        runs="extra", views=(*VIEWS, STATES), corpus=replace(small_corpus(3), name="foreign")
    )
    extra = ExtraCorpus(foreign.corpus, foreign.loader.stores)
    views = ["mel", "egemaps", "states"]
    alone = make_loader(runner).load(1, views, normalise=NORMALISE)
    together = make_loader(runner).load(1, views, normalise=NORMALISE, extra_corpora=[extra])
    assert len(together.extra) == 30
    assert set(alone.normalisers) == {"mel", "egemaps"}
    for view, normaliser in alone.normalisers.items():
        jax.tree.map(
            np.testing.assert_array_equal, normaliser.to_arrays(), together.normalisers[view].to_arrays()
        )
        store = runner.loader.stores[view]
        utterances = alone.fold.test
        values, _ = normaliser.apply(
            *store.packed([u.id for u in utterances]), [u.speaker for u in utterances]
        )
        start = int(alone.features[view].starts[alone.test[0]])
        np.testing.assert_array_equal(values, alone.features[view].values[start:])


def test_the_largest_movable_views_stay_on_disk_and_no_more_than_needed():
    size = {"mel": 5, "a": 7, "b": 9}
    assert choose_on_disk(size, ["a", "b"], 21.0) == set()
    assert choose_on_disk(size, ["a", "b"], 20.0) == {"b"}
    assert choose_on_disk(size, ["a", "b"], 11.0) == {"a", "b"}
    assert choose_on_disk(size, ["a", "b"], 0.0) == {"a", "b"}
