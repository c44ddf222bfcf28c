"""One pre-training that can be killed at any instant: training states, history, resumption."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from pcl_jax.config import Pretraining
from pcl_jax.data.fold import FoldData
from pcl_jax.devices import broadcast_from_first, preemption_requested
from pcl_jax.models.networks import PretrainingNetworks
from pcl_jax.runs import checkpoint
from pcl_jax.runs.history import History
from pcl_jax.training import pretrain as training

SAVE_EVERY_S = 5.0
"""Seconds between two saved states: with one epoch, the most that a kill can lose."""
STATES = "states"

Watch = Callable[[Mapping[str, Any], int], None]
"""Callback of each epoch: its metrics, and the largest number of epochs."""


def train(
    data: FoldData,
    networks: PretrainingNetworks,
    config: Pretraining,
    *,
    seed: int,
    mesh: Mesh,
    folder: Path,
    watch: Watch | None = None,
) -> tuple[training.Progress, History]:
    """Pre-train to the end, from the last saved state if there is one.

    Raises:
        KeyboardInterrupt: asked to stop; the state is saved.
        ValueError: too few utterances.
        FloatingPointError: the loss is no longer finite.
    """
    with checkpoint.states(folder / STATES) as states:
        start = training.initial_progress(data, networks, seed=seed, mesh=mesh)
        progress = start = states.latest(start) or start
        history = History(folder, last_epoch=progress.epoch)
        saved_at, saved = time.monotonic(), progress.epoch
        epochs = training.pretrain(data, networks, config, seed=seed, mesh=mesh, progress=start)
        try:
            for progress, row in epochs:
                history.rows.append(row)
                if watch:
                    watch(row, config.epochs)
                stop = preemption_requested()
                if stop or broadcast_from_first(time.monotonic() - saved_at > SAVE_EVERY_S):
                    _save(states, history, progress)
                    saved_at, saved = time.monotonic(), progress.epoch
                if stop:
                    raise KeyboardInterrupt
        finally:
            # Several processes save together or not at all: they resume from the last state they share.
            if progress.epoch > saved and jax.process_count() == 1:
                _save(states, history, progress)
    history.write()
    return progress, history


def _save(states: checkpoint.States, history: History, progress: training.Progress) -> None:
    history.write()  # first: a state never knows of epochs that the history lacks
    states.save(progress.epoch, progress)


def remove_states(folder: Path) -> None:
    """Delete the training states of a finished run: nothing resumes from them any more."""
    if jax.process_index() == 0:
        shutil.rmtree(folder / STATES, ignore_errors=True)


def stopped_elsewhere(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each stopped pre-training of the same fold and views that differs from this one.

    Each line names the settings that differ. There is none if this one has begun itself.
    """
    if (folder / checkpoint.CARD).is_file():
        return
    wanted = dict(_flat(json.loads(json.dumps(card))))
    for path in sorted(folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*/{checkpoint.CARD}")):
        if (path.parent / checkpoint.ENCODERS).is_file():
            continue
        try:
            found = dict(_flat(json.loads(path.read_text())))
        except ValueError:  # a damaged card tells nothing
            continue
        differences = [
            f"{name} {found.get(name)}, not {value}"
            for name, value in wanted.items()
            if found.get(name) != value
        ]
        if differences:
            yield f"not resuming from {path.parent}, which was stopped: it has {'; '.join(differences)}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries with dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
