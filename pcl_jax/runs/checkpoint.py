"""What a run leaves on disk: its training state for going on, its best encoders for using them.

Training state is an orbax checkpoint (the v1 API): written to a temporary name and renamed, so a
kill leaves the one before. Encoders are one safetensors file whose header names corpus, fold, views
and configuration; `load_encoder` refuses to hand them to another. Nothing is unpickled.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp
from safetensors import safe_open
from safetensors.numpy import save

from pcl_jax.arrays import flatten, unflatten

State = TypeVar("State")
CARD = "run.json"
"""What a pre-training is, written before it begins."""
ENCODERS = "encoders.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is of something else. One line: what, which, what to do."""


@contextmanager
def states(folder: Path) -> Iterator["States"]:
    """The training states of a run; waits for the last save when left, however it is left.

    Raises:
        CheckpointError: another process is training this run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "wb") as lock:
        try:
            if jax.process_index() == 0:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{folder.parent} is being trained by another process; wait for it, or stop it"
            raise CheckpointError(message) from None
        latest = ocp.training.preservation_policies.LatestN(2)
        with ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=latest,  # pyright: ignore[reportArgumentType] - orbax's own policy
            cleanup_tmp_directories=True,
        ) as checkpointer:
            yield States(checkpointer)


class States:
    """Numbered training states, the two latest kept."""

    def __init__(self, checkpointer: "ocp.training.Checkpointer"):
        self._checkpointer = checkpointer

    def latest(self, like: State) -> State | None:
        """The newest whole state, with the structure, types and placement of `like`; None without."""
        newest = self._checkpointer.latest
        if newest is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        abstract = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            if isinstance(leaf, jax.Array)
            else leaf
            for leaf in leaves
        ]
        loaded = self._checkpointer.load(newest, dict(enumerate_leaves(abstract)))
        return jax.tree.unflatten(structure, [loaded[name] for name, _ in enumerate_leaves(leaves)])

    def save(self, number: int, state: State) -> None:
        """Save in the background; the state is copied before this returns."""
        self._checkpointer.save_async(number, dict(enumerate_leaves(jax.tree.leaves(state))), force=True)


def enumerate_leaves(leaves: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{index:05d}", leaf) for index, leaf in enumerate(leaves)]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the old one, whole, or none.

    Of several processes that train as one, the first writes.
    """
    if jax.process_index() > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_arrays(path: Path, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """A nested dictionary of arrays and what it is about, as one safetensors file, atomically."""
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in about.items()}
    write_atomically(path, save(flatten(arrays), metadata))


def load_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of `save_arrays`.

    Raises:
        CheckpointError: the file is not there or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it and train again") from error
    return unflatten(arrays), about


def load_encoder(run: Path, view: str, **expected: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pre-trained parameters of one view's encoder, and what the checkpoint is about.

    Args:
        run: the run's folder.
        view: whose encoder.
        expected: what the checkpoint must be about, `corpus=..., fold=...`: a checkpoint of another
            fold has heard this fold's test speakers.

    Raises:
        CheckpointError: no finished run there, a foreign one, or one without this view.
    """
    path = run / ENCODERS
    if not path.is_file():
        hint = "give the folder that `pcl pretrain` printed"
        if (run / CARD).is_file():
            hint = "it was interrupted: repeat its `pcl pretrain` command"
        raise CheckpointError(f"{run} holds no pre-trained encoders ({ENCODERS} is not there); {hint}")
    arrays, about = load_arrays(path)
    if view not in arrays:
        raise CheckpointError(f"{run} has encoders for {about.get('views')}, not for {view!r}")
    for name, value in expected.items():
        if about.get(name) != value:
            why = " (encoders of another fold have heard this fold's test speakers)" * (name == "fold")
            raise CheckpointError(
                f"{run} was pre-trained with {name} {about.get(name)}, not {value}{why}; "
                "pre-train for this one"
            )
    return arrays[view], about
