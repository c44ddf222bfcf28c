"""Packing on the host and slots inside a program are one layout."""

import numpy as np
import pytest

from pcl_jax.data.ragged import pack, slots
from pcl_jax.devices import count_programs


@pytest.mark.parametrize("lengths", [(1,), (3, 9), (40, 16, 17), (5, 23, 24, 25)])
def test_pack_lays_out_as_slots_and_compiles_nothing(lengths):
    sequences = [np.full((length, 2), float(number), np.float32) for number, length in enumerate(lengths)]
    with count_programs() as programs:
        batch = pack(sequences)
    assert not programs
    owner, position = slots(np.array([lengths], np.int32), batch.frames.shape[1])
    np.testing.assert_array_equal(batch.owner, owner)
    np.testing.assert_array_equal(batch.position, position)
    assert (batch.owner.dtype, batch.position.dtype) == (owner.dtype, position.dtype)
    frames, present = np.asarray(batch.frames), np.asarray(batch.valid)
    assert present.sum() == sum(lengths)
    np.testing.assert_array_equal(frames[present][:, 0], np.asarray(batch.owner)[present])
