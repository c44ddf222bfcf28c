"""Training states on a disk that fails; tests of the runner resume them."""

import pytest

from pcl_jax.runs.checkpoint import CheckpointError, states


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path):
    """Orbax raises a ValueError with the system's text, in a save or in the wait for it."""
    with (
        pytest.raises(CheckpointError, match="states: the disk is full; make room and run the same command"),
        states(tmp_path / "states"),
    ):
        raise ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']")


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="something else"), states(tmp_path / "states"):
        raise ValueError("something else")
