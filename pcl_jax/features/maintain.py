"""Look after the stores of a features folder: what is there, is it whole, who needs it, take it elsewhere."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet
from safetensors import safe_open

from pcl_jax import audio
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features import store
from pcl_jax.features.store import Store, StoreError
from pcl_jax.views import egemaps


@dataclass(frozen=True)
class Kept:
    """One store as it lies on disk."""

    folder: Path
    corpus: str
    view: str
    digest: str

    @property
    def bytes(self) -> int:
        return sum(part.stat().st_size for part in store.parts(self.folder))


def stores(features: Path) -> list[Kept]:
    """All stores of a features folder, sorted by corpus and view."""
    found = []
    for folder in sorted(features.glob("*/*-*")):
        view, _, digest = folder.name.rpartition("-")
        if folder.is_dir():
            found.append(Kept(folder, unquote(folder.parent.name), view, digest))
    return found


def damaged_parts(folder: Path) -> dict[Path, list[str]]:
    """Parts that cannot be read or hold a row that differs from its checksum: part -> what is wrong."""
    faults: dict[Path, list[str]] = {}
    for part in store.parts(folder):
        try:
            if wrong := store.verify_part(part):
                faults[part] = wrong
        except StoreError as error:
            faults[part] = [str(error)]
    return faults


def changed_audio(there: Store, utterances: Iterable[Utterance]) -> list[str]:
    """Ids whose audio is another than what the features were computed from, or is gone."""
    known = [utterance for utterance in utterances if utterance.id in there]
    now = audio.digests(known)
    return [u.id for u, digest in zip(known, now, strict=True) if digest != there.audio_digest(u.id)]


def unused(features: Path, runs: Path) -> list[Kept]:
    """Stores that no run was trained on, by what the runs' folders say: `run.json` of pre-trainings, also
    unfinished ones, and what stands in the head of every model."""
    used = set()
    for folder in runs.glob("*/*/"):
        for about in _abouts(folder):
            for name, digest in about.items():
                if name.endswith(" features"):
                    view = name.removesuffix(" features")
                    used.add((features / folder.parent.name / f"{view}-{digest}").absolute())
    return [kept for kept in stores(features) if kept.folder.absolute() not in used]


def _abouts(run: Path) -> Iterator[Mapping[str, Any]]:
    for card in run.glob("run.json"):
        yield json.loads(card.read_text())
    for model in run.glob("*.safetensors"):
        with safe_open(model, "numpy") as file:
            yield {name: json.loads(value) for name, value in (file.metadata() or {}).items()}


def export(corpus: Corpus, view: str, there: Store, to: Path) -> int:
    """Write features for other tools, with audformat's index `file`, `start`, `end`; how many utterances.

    To `NAME.csv` or `NAME.parquet`: one vector per utterance, a column per feature. Time-resolved features
    become their mean over frames, of hidden states the last one's. To a folder: `index.csv` and one `.npy`
    per utterance, as stored.

    Raises:
        StoreError: no utterance of the corpus has features here, or `to` cannot be written.
    """
    utterances = [utterance for utterance in corpus.utterances if utterance.id in there]
    if not utterances:
        raise StoreError(
            f"{there.folder} has no features of an utterance of {corpus.name}; extract them first"
        )
    try:
        if to.suffix in (".csv", ".parquet"):
            vectors = np.stack([_vector(there[u.id]) for u in utterances])
            names = egemaps.names() if view == "egemaps" else [f"{view}-{i}" for i in range(vectors.shape[1])]
            columns = dict(zip(names, vectors.T, strict=True))
            _write(to, _index(utterances, times=to.suffix == ".parquet") | columns)
        else:
            to.mkdir(parents=True, exist_ok=True)
            files = [f"{number:06d}.npy" for number in range(len(utterances))]
            for utterance, file in zip(utterances, files, strict=True):
                np.save(to / file, there[utterance.id])
            _write(to / "index.csv", _index(utterances, times=False) | {"features": files})
    except OSError as error:
        raise StoreError(f"{to}: cannot be written ({error.strerror or error})") from error
    return len(utterances)


def _vector(values: np.ndarray) -> np.ndarray:
    if values.ndim == 1:
        return values
    frames = values if values.ndim == 2 else values[:, -1]
    return frames.mean(axis=0, dtype=np.float32)


def _index(utterances: list[Utterance], *, times: bool) -> dict[str, Any]:
    """`end` is missing where the utterance ends with its file, as in audformat."""
    index: dict[str, Any] = {"file": [str(u.path) for u in utterances]}
    for name, values in (("start", [u.start_s for u in utterances]), ("end", [u.end_s for u in utterances])):
        whole = [None if value is None else round(value * 1e9) for value in values]
        index[name] = pa.array(whole, pa.duration("ns")) if times else [_time(ns) for ns in whole]
    return index | {"id": [u.id for u in utterances]}


def _time(nanoseconds: int | None) -> str:
    """As pandas writes and reads a timedelta; blank for none."""
    if nanoseconds is None:
        return ""
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} days {hours % 24:02}:{minutes:02}:{rest / 1e9:012.9f}"


def _write(to: Path, columns: Mapping[str, Any]) -> None:
    table = pa.table(dict(columns))
    temporary = to.with_name(f".{to.name}")
    (parquet.write_table if to.suffix == ".parquet" else csv.write_csv)(table, temporary)
    temporary.rename(to)
