"""One JSON row per finished run, in `<runs>/records.jsonl`.

A row is appended under a lock with one write, so rows of processes that share the file stay whole;
a line that a crash cut short is passed over by `read`.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from pcl_jax.arrays import flatten

FILE = "records.jsonl"
Row = Mapping[str, Any]
"""A record, as it stands in the file."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of a finished run: the question, the answer, and what it takes to get it again."""

    experiment: str
    """Purpose of the run: "pretrain", "finetune", "sparse_labels"."""
    corpus: str
    synthetic: bool
    """Whether this is the demo corpus; no result on it says anything about people."""
    fold: int
    """Test session."""
    view: str
    """Name of the view; of a pre-training all views, joined by "+"."""
    title: str
    """Name of the view in tables: a speech model with its checkpoint."""
    views: tuple[str, ...]
    """Views of the pre-training; () for a supervised run."""
    method: str
    """"supervised", "pairwise-cl", "probe-raw", "probe-random", "probe-pretrained", "pretraining", a
    method of few labels (`spec.FewLabels.name`), or the experiment that measured ("alignment")."""
    frozen: bool = False
    fraction: float = 0.0
    """Share of the labelled training utterances per class; 0 for pre-training."""
    per_class: int | None = None
    """Labelled utterances of each class, where that was asked for instead of a fraction."""
    n_labelled: int = 0
    repeat: int = 0
    temperature: float | None = None
    """Temperature of the pre-training."""
    pretrained_on: str | None = None
    """Utterances that the pre-training saw, as `results.pretrained_on` puts it; None for a supervised run."""
    n_pretrained: int = 0
    """Number of these utterances."""
    seed: int
    uar: float | None = None
    """UAR of the test session, over the corpus's classes; None for pre-training."""
    wa: float | None = None
    recall: tuple[float, ...] | None = None
    """Recall of each class, in class order."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Counts of the test session: truth, prediction."""
    by_speaker: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None
    """Test speaker -> utterances of each class that are right, and all of each class."""
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    """Utterances of each class in the whole corpus."""
    utterances: int
    """Number of utterances in the whole corpus, labelled or not."""
    normalise: str
    """Statistics that scale mel and eGeMAPS (`config.Settings`)."""
    values: Mapping[str, float | None] | None = None
    """Measurements of an experiment, by name."""
    validation_uar: float | None = None
    validation_wa: float | None = None
    validation_loss: float | None = None
    """Validation loss of the kept epoch of a pre-training, in nats."""
    epochs: int = 0
    best_epoch: int = 0
    seconds: float
    protocol: str
    """Digest of the data and of the version (`protocol.Protocol.data`)."""
    config_digest: str
    """Identity of the run: digest of everything that decides its outcome (`protocol.Protocol`)."""
    settings: Mapping[str, Any]
    """Settings that a run of this kind uses, in full; with those of the pre-training that it starts from."""
    start: str | None = None
    """Identity of that pre-training."""
    features: Mapping[str, str]
    """View -> digest of everything that changes a value of its features."""
    recordings: str
    """Digest of ids, audio, sessions and speakers of the corpus."""
    label_digest: str
    """Digest of the class of each utterance and of the names of the classes."""
    skipped: int = 0
    """Utterances that the data claim and that were left out on request: their audio is missing or bad."""
    choice: Mapping[str, Any] | None = None
    """Choice of a method of few labels, with the findings of its cross-validation."""
    params_digest: str = ""
    """sha256 over the final parameters in a fixed order: names, shapes, bytes."""
    run: str
    """Folder of the run, below the runs folder."""
    versions: Mapping[str, str]
    device: str


@cache
def versions() -> dict[str, str]:
    """Return the versions of all that makes a number; with the commit where the code is a checkout."""
    names = ("pcl-jax", "jax", "flax", "optax", "numpy", "librosa", "opensmile", "scikit-learn")
    found = {"python": platform.python_version()}
    return found | {name: version(name) for name in names} | _commit()


def _commit() -> dict[str, str]:
    """Return the commit of the checkout that this file lies in, marked if it has changes; {} outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": done.stdout.strip()}


def device() -> str:
    """Return kind and number of the devices, as "cpu x 1"."""
    return f"{jax.devices()[0].device_kind} x {jax.device_count()}"


def params_digest(params: Mapping[str, Any]) -> str:
    """Return the sha256 over names, shapes, types and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name, value in flatten(params).items():
        sha.update(f"{name} {value.shape} {value.dtype}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def append(runs: Path, row: Row) -> None:
    """Add a row, on disk when this returns. Of several processes that train as one, the first does."""
    if jax.process_index() > 0:
        return
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / FILE, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = b"" if file.read(1) in (b"", b"\n") else b"\n"  # a crash cut the last row short: start a line
        file.write(torn + json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(runs: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows, oldest first; none when there is no file.

    Lines that are no record, half written or foreign, are passed over.
    """
    path = runs / FILE
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("run"), str):
                yield row
