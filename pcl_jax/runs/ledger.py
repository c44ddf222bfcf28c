"""Ledger: where the answer to each spec lies, and whether it is there.

A run is finished when its folder holds its files and its record (`record.json`, written last). All records
are also collected in `records.jsonl`; a row that got lost there is restored from the folder.
"""

import fcntl
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pcl_jax.runs import checkpoint, records
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.protocol import Protocol
from pcl_jax.runs.records import Record, Row
from pcl_jax.runs.spec import FewLabels, Finetune, Labels, Measure, Pretrain, Probe, SavedEncoders, Spec

RECORD = "record.json"
PREDICTIONS = "predictions.npz"

FILES = {
    Pretrain: (checkpoint.ENCODERS,),
    Finetune: (checkpoint.FINETUNED, PREDICTIONS),
    Probe: (PREDICTIONS,),
    FewLabels: (PREDICTIONS,),
}
"""Files that a finished run of each kind has beside its record."""

WAIT_S = 1.0
"""Pause between two looks at a run that another process is doing."""


class RunBusy(checkpoint.CheckpointError):
    """A run that another process is doing now."""


class Predictions(NamedTuple):
    """Log-probabilities of the classes for the labelled utterances of two sessions."""

    classes: tuple[str, ...]
    validation_ids: tuple[str, ...]
    validation: Float[np.ndarray, "n c"]
    test_ids: tuple[str, ...]
    test: Float[np.ndarray, "m c"]


@dataclass(frozen=True)
class Ledger:
    """Folders and records of the runs of one protocol below a runs folder."""

    runs: Path
    protocol: Protocol

    def folder(self, spec: Spec) -> Path:
        """Return where a run lies, or will lie: its name for people, then its identity."""
        return self.runs / self.protocol.corpus / f"{_label(spec)}-{self.protocol.identity(spec)}"

    def name(self, spec: Spec) -> str:
        """Return a run's folder as records name it, below the runs folder."""
        return str(self.folder(spec).relative_to(self.runs))

    def start_folder(self, start: Pretrain | SavedEncoders) -> Path:
        """Return the folder of the pre-training that a run starts from."""
        return start.folder if isinstance(start, SavedEncoders) else self.folder(start)

    def find(self, spec: Spec) -> Row | None:
        """Return the record of a run if it is finished."""
        folder = self.folder(spec)
        try:
            row = json.loads((folder / RECORD).read_text())
        except (OSError, ValueError):
            return None
        return row if all((folder / file).is_file() for file in FILES.get(type(spec), ())) else None

    def finished_records(self, specs: Iterable[Spec], *, scored_only: bool = True) -> list[Row]:
        """Return the records of those specs that are finished, each once, in order.

        A record that `records.jsonl` has lost is added to it again.

        Args:
            specs: what is asked for.
            scored_only: leave out pre-trainings, which score nothing.
        """
        collected = {row["run"] for row in records.read(self.runs)}
        found = []
        for spec in dict.fromkeys(specs):
            row = self.find(spec)
            if row is None:
                continue
            if row["run"] not in collected:  # killed between the two files, or the row was removed
                records.append(self.runs, row)
            if not (scored_only and isinstance(spec, Pretrain)):
                found.append(row)
        return found

    def add(self, spec: Spec, record: Record) -> Row:
        """Write the record of a run whose files are written: the run is finished then."""
        row = json.loads(json.dumps(asdict(record)))
        write_atomically(self.folder(spec) / RECORD, json.dumps(row, indent=1).encode())
        records.append(self.runs, row)
        return row

    def encoder(self, start: Pretrain | SavedEncoders, spec: Spec, view: str) -> tuple[Any, dict[str, Any]]:
        """Load the parameters of the encoder that a run starts from, and what its checkpoint says of itself.

        Raises:
            CheckpointError: it is not there, or is of another fold, corpus or feature.
        """
        expected = self.protocol.encoder_fingerprint(spec.fold, (view,), spec.settings)
        return checkpoint.load_encoder(self.start_folder(start), view, expected)

    def save_predictions(self, spec: Spec, predictions: Predictions) -> None:
        """Write the predictions of a run."""
        buffer = io.BytesIO()
        arrays = {name: np.asarray(value) for name, value in predictions._asdict().items()}
        np.savez(buffer, allow_pickle=False, **arrays)
        write_atomically(self.folder(spec) / PREDICTIONS, buffer.getvalue())

    def predictions(self, spec: Spec) -> Predictions:
        """Load the predictions of a finished run."""
        with np.load(self.folder(spec) / PREDICTIONS, allow_pickle=False) as file:
            classes, validation_ids, test_ids = (
                tuple(file[name].tolist()) for name in ("classes", "validation_ids", "test_ids")
            )
            return Predictions(classes, validation_ids, file["validation"], test_ids, file["test"])

    @contextmanager
    def claim(self, specs: Sequence[Spec], *, wait: bool = False) -> Iterator[list[Spec]]:
        """Keep other processes from doing these runs; give those that are not busy elsewhere.

        Args:
            specs: the runs.
            wait: until each of them is free.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        # One lock file for all runs: each locks the byte whose number is its identity. The locks of a
        # process end with it.
        with open(self.runs / ".lock", "ab") as file:
            claimed = []
            for spec in specs:
                byte = int(self.protocol.identity(spec), 16)
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte, os.SEEK_SET)
                except OSError:
                    continue
                claimed.append(spec)
            yield claimed


def wait_for_others() -> None:
    """Pause before another look at the runs that other processes are doing."""
    time.sleep(WAIT_S)


def _label(spec: Spec) -> str:
    match spec:
        case Pretrain():
            return f"pretrain-fold{spec.fold}-{'+'.join(spec.views)}"
        case Measure():
            return f"{spec.kind}-fold{spec.fold}-{'-'.join(spec.views)}"
        case Probe():
            source = spec.method.removeprefix("probe-")
            return f"probe-fold{spec.fold}-{spec.view}-{source}-{_amount(spec.labels)}"
        case FewLabels():
            return f"few-fold{spec.fold}-{'+'.join(spec.views)}-{spec.name}-{_amount(spec.labels)}"
        case Finetune():
            how = "supervised" if spec.start is None else "frozen" if spec.frozen else "tuned"
            return f"finetune-fold{spec.fold}-{spec.view}-{how}-{_amount(spec.labels)}"


def _amount(labels: Labels) -> str:
    share = f"n{labels.per_class}" if labels.per_class else f"p{100 * labels.fraction:g}"
    return f"{share}-r{labels.repeat}"
