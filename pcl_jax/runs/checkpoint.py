"""Checkpoints of a run: its training state, to resume it, and its best parameters, to use them.

Training state is an orbax checkpoint (the v1 API): written to a temporary name and renamed, so a
kill leaves the one before. Parameters are one safetensors file whose header says what they are;
`load_encoder` refuses to use them for anything else. Nothing is unpickled.
"""

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp
from safetensors import safe_open
from safetensors.numpy import save

from pcl_jax.arrays import flatten, unflatten
from pcl_jax.runs.files import write_atomically

logging.getLogger("absl").setLevel(logging.CRITICAL)
"""Orbax logs a traceback for each of its threads that fails; the error itself reaches the caller."""

State = TypeVar("State")
CARD = "run.json"
"""Description of a pre-training, written before it begins."""
ENCODERS = "encoders.safetensors"
"""Encoders of all views of a pre-training at its best epoch."""
FINETUNED = "model.safetensors"
"""Encoder, classifier and scale of a fine-tuning at its best epoch, and the statistics that normalised its
features."""


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is of something else. One line: what, which, what to do."""


@contextmanager
def states(folder: Path) -> Iterator["States"]:
    """Open the training states of a run; wait for the last save when left, however it is left.

    Raises:
        CheckpointError: the disk is full. The states before are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest = ocp.training.preservation_policies.LatestN(2)
    try:
        with ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=latest,  # pyright: ignore[reportArgumentType] - orbax's own policy
            cleanup_tmp_directories=True,
        ) as checkpointer:
            yield States(folder, checkpointer)
    except ValueError as error:  # of a thread of orbax, from a save or from the wait for it
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise CheckpointError(
            f"{folder}: the disk is full; make room and run the same command to resume"
        ) from error


class States:
    """Numbered training states of a run, of which the two latest are kept."""

    def __init__(self, folder: Path, checkpointer: "ocp.training.Checkpointer"):
        """Read and write the states below a folder."""
        self._folder, self._checkpointer = folder, checkpointer

    def latest(self, like: State) -> State | None:
        """Load the newest state that is whole, with the structure, types and placement of `like`.

        A damaged state is passed over for the one before it. None where nothing was saved yet.

        Raises:
            CheckpointError: states were saved, and none of them can be read.
        """
        leaves, structure = jax.tree.flatten(like)
        abstract = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            if isinstance(leaf, jax.Array)
            else leaf
            for leaf in leaves
        ]
        saved, fault = sorted(self._checkpointer.checkpoints, key=lambda state: state.step, reverse=True), ""
        for state in saved:
            try:
                loaded = self._checkpointer.load(state.step, dict(_named_leaves(abstract)))
            except Exception as error:
                fault = fault or str(error).splitlines()[0][:200]
                continue
            return jax.tree.unflatten(structure, [loaded[name] for name, _ in _named_leaves(leaves)])
        if saved:
            raise CheckpointError(
                f"{self._folder}: no training state can be read ({fault}); delete that folder to start again"
            )
        return None

    def save(self, number: int, state: State) -> None:
        """Save in the background; the state is copied before this returns."""
        self._checkpointer.save_async(
            number, dict(_named_leaves(jax.tree.leaves(state))), force=True, overwrite=True
        )


def _named_leaves(leaves: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{index:05d}", leaf) for index, leaf in enumerate(leaves)]


def save_arrays(path: Path, arrays: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Save a nested dictionary of arrays, and what they are, as one safetensors file, atomically."""
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in card.items()}
    write_atomically(path, save(flatten(arrays), metadata))


def load_card(path: Path) -> dict[str, Any]:
    """Return what the arrays of a file are, by its header.

    Raises:
        CheckpointError: the file is not there or damaged.
    """
    return load_arrays(path, header_only=True)[1]


def load_arrays(path: Path, *, header_only: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load what `save_arrays` saved: the arrays, and what they are.

    Raises:
        CheckpointError: the file is not there or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            card = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            names = [] if header_only else file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it and train again") from error
    return unflatten(arrays), card


def load_encoder(
    folder: Path, view: str, expected: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the pre-trained parameters of one view's encoder, and what the checkpoint says of itself.

    Args:
        folder: run folder of the pre-training.
        view: name of the view.
        expected: what the checkpoint must say of itself (`Protocol.encoder_fingerprint`): encoders of another
            fold have heard this fold's test speakers.

    Raises:
        CheckpointError: no finished run there, one of something else, or one without this view.
    """
    require_encoders(folder)
    arrays, card = load_arrays(folder / ENCODERS)
    if view not in arrays:
        raise CheckpointError(f"{folder} has encoders for {card.get('views')}, not for {view!r}")
    for name, value in (expected or {}).items():
        if card.get(name) != value:
            reason = " (encoders of another fold have heard this fold's test speakers)" * (name == "fold")
            raise CheckpointError(
                f"{folder} was pre-trained with {name} {card.get(name)}, not {value}{reason}; "
                "pre-train for this one"
            )
    return arrays[view], card


def require_encoders(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds the encoders of a finished pre-training."""
    if (folder / ENCODERS).is_file():
        return
    hint = "give the folder that `pcl pretrain` printed"
    if (folder / CARD).is_file():
        hint = "it was interrupted: repeat its `pcl pretrain` command"
    raise CheckpointError(f"{folder} holds no pre-trained encoders ({ENCODERS} is missing); {hint}")
