"""Normalisation by numbers that fit on a slip of paper."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcl_jax.data import normalise
from pcl_jax.data.normalise import Normaliser, fit


class Rows(dict):
    """A stand-in for the store."""

    def packed(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.asarray(self[id], np.float32) for id in ids]
        if rows[0].ndim == 1:
            return np.stack(rows), np.zeros(len(rows), int)
        return np.concatenate(rows), np.array([len(row) for row in rows])


FRAMES = Rows(
    a=[[1.0, 10.0], [3.0, 10.0]],  # speaker x
    b=[[5.0, 40.0]],  # speaker x
    c=[[100.0, 7.0], [300.0, 9.0]],  # speaker y
)


def test_fold_by_hand():
    normaliser = fit(FRAMES, ["a", "b"], ["x", "x"], "fold")
    np.testing.assert_allclose(normaliser.mean[""], [3, 20])  # over frames, not over utterances
    np.testing.assert_allclose(normaliser.scale[""], np.sqrt([8 / 3, 200]))
    values, imputed = normaliser.apply(*FRAMES.packed(["c", "b"]), ["y", "x"])
    expected = (np.array([[100, 7], [300, 9], [5, 40]]) - [3, 20]) / np.sqrt([8 / 3, 200])
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert (values.dtype, imputed) == (np.float32, 0)


def test_speakers_are_scaled_by_themselves_alone():
    normaliser = fit(FRAMES, ["a", "b", "c"], ["x", "x", "y"], "speaker")
    values, _ = normaliser.apply(*FRAMES.packed(["c", "a", "b"]), ["y", "x", "x"])
    np.testing.assert_allclose(values[:2], [[-1, -1], [1, 1]])
    np.testing.assert_allclose(values[2:].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values[2:].std(axis=0), 1, rtol=1e-6)
    louder = Rows(FRAMES, c=[[-5e6, 1.0], [8e6, 2.0]])
    again = fit(louder, ["a", "b", "c"], ["x", "x", "y"], "speaker")
    np.testing.assert_array_equal(again.mean["x"], normaliser.mean["x"])
    np.testing.assert_array_equal(again.scale["x"], normaliser.scale["x"])


def test_an_unknown_speaker_is_an_error():
    normaliser = fit(FRAMES, ["a", "b"], ["x", "x"], "speaker")
    with pytest.raises(ValueError, match="speaker 'y' has no statistics"):
        normaliser.apply(*FRAMES.packed(["c"]), ["y"])


def test_what_does_not_belong_together_is_an_error():
    normaliser = fit(FRAMES, ["a", "b"], ["x", "x"], "fold")
    values, lengths = FRAMES.packed(["a", "b"])
    with pytest.raises(ValueError, match="do not belong together"):
        normaliser.apply(values[1:], lengths, ["x", "x"])
    with pytest.raises(ValueError, match="0 ids and 0 speakers"):
        fit(FRAMES, [], [], "fold")


def test_statistics_of_a_fold_know_nothing_of_other_utterances():
    asked = []

    class Watched(Rows):
        def packed(self, ids):
            asked.extend(ids)
            return super().packed(ids)

    fit(Watched(FRAMES), ["a", "b"], ["x", "x"], "fold")
    assert sorted(asked) == ["a", "b"]


VECTORS = Rows(a=[1.0, np.nan, 5.0], b=[3.0, 2.0, 5.0], c=[np.inf, 4.0, 5.0])


def test_nan_and_infinity_count_for_nothing_and_become_the_mean():
    normaliser = fit(VECTORS, ["a", "b", "c"], ["x", "x", "y"], "fold")
    np.testing.assert_allclose(normaliser.mean[""], [2, 3, 5])
    np.testing.assert_allclose(normaliser.scale[""], [1, 1, 1])  # the last: a constant is not scaled
    values, imputed = normaliser.apply(*VECTORS.packed(["a", "b", "c"]), ["x", "x", "y"])
    np.testing.assert_allclose(values, [[-1, 0, 0], [1, -1, 0], [0, 1, 0]])
    assert imputed == 2


def test_none_leaves_values_and_imputes_the_training_mean():
    normaliser = fit(VECTORS, ["a", "b"], ["x", "x"], "none")
    values, imputed = normaliser.apply(*VECTORS.packed(["a", "c"]), ["x", "y"])
    np.testing.assert_allclose(values, [[1, 2, 5], [2, 4, 5]])
    assert imputed == 2


def test_a_feature_that_is_never_finite_becomes_zero():
    nothing = Rows(a=[np.nan, 1.0], b=[np.nan, 3.0])
    for how in ("fold", "speaker", "none"):
        values, imputed = fit(nothing, ["a", "b"], ["x", "x"], how).apply(
            *nothing.packed(["a", "b"]), ["x", "x"]
        )
        assert values[:, 0].tolist() == [0, 0]
        assert imputed == 2


def test_hidden_states_are_scaled_per_layer_and_feature():
    stacks = Rows(
        a=np.random.default_rng(0).normal(3, 2, (50, 3, 4)),
        b=np.random.default_rng(1).normal(0, 1, (9, 3, 4)),
    )
    values, _ = fit(stacks, ["a", "b"], ["x", "x"], "fold").apply(*stacks.packed(["a", "b"]), ["x", "x"])
    np.testing.assert_allclose(values.mean(axis=0), np.zeros((3, 4)), atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), np.ones((3, 4)), rtol=1e-4)


@given(
    offset=st.sampled_from([0.0, 1e4, -1e4]),
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=20),
    chunk=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_merged_chunks_equal_numpy_in_one_go(offset, lengths, chunk):
    rng = np.random.default_rng(len(lengths))
    rows = Rows(
        {str(i): (offset + rng.normal(size=(n, 3))).astype(np.float32) for i, n in enumerate(lengths)}
    )
    whole = normalise._CHUNK
    normalise._CHUNK = chunk
    try:
        normaliser = fit(rows, list(rows), ["x"] * len(rows), "fold")
    finally:
        normalise._CHUNK = whole
    values = rows.packed(list(rows))[0].astype(np.float64)
    np.testing.assert_allclose(normaliser.mean[""], values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(normaliser.scale[""], values.std(axis=0), rtol=1e-9)


def test_survives_being_kept_as_plain_arrays():
    normaliser = fit(FRAMES, ["a", "b", "c"], ["x", "x", "ÿ"], "speaker")
    arrays = normaliser.to_arrays()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays.values())
    again = Normaliser.from_arrays(arrays)
    assert again.method == "speaker"
    for before, after in zip(
        normaliser.apply(*FRAMES.packed(["a", "c"]), ["x", "ÿ"]),
        again.apply(*FRAMES.packed(["a", "c"]), ["x", "ÿ"]),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
