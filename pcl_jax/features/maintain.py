"""Maintenance of a features folder: list its stores, verify them, find those that no run needs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from safetensors import SafetensorError, safe_open

from pcl_jax import audio
from pcl_jax.corpora.utterance import Utterance
from pcl_jax.features import store
from pcl_jax.features.store import Store, StoreError


@dataclass(frozen=True)
class StoredFeatures:
    """One store on disk."""

    folder: Path
    corpus: str
    view: str
    digest: str

    @property
    def bytes(self) -> int:
        """The size of its parts."""
        return sum(part.stat().st_size for part in store.parts(self.folder))


def stores(features: Path) -> list[StoredFeatures]:
    """List all stores of a features folder, sorted by corpus and view.

    Raises:
        StoreError: There is no such folder.
    """
    if not features.is_dir():
        raise StoreError(f"{features} is no folder, so there are no features: check --features")
    found = []
    for folder in sorted(features.glob("*/*-*")):
        view, _, digest = folder.name.rpartition("-")
        if folder.is_dir():
            found.append(StoredFeatures(folder, unquote(folder.parent.name), view, digest))
    return found


def damaged_parts(folder: Path) -> dict[Path, list[str]]:
    """Map each part that is damaged, or holds a row that differs from its checksum, to its faults."""
    faults: dict[Path, list[str]] = {}
    for part in store.parts(folder):
        try:
            if wrong := store.verify_part(part):
                faults[part] = wrong
        except StoreError as error:
            faults[part] = [str(error)]
    return faults


def changed_audio(stored: Store, utterances: Iterable[Utterance]) -> list[str]:
    """Find the ids whose audio has changed since the features were computed, or is gone."""
    known = [utterance for utterance in utterances if utterance.id in stored]
    files = audio.file_digests(u.path for u in known)
    changed = []
    for u in known:
        content = files[u.path]
        gone = isinstance(content, audio.AudioError)
        if gone or audio.segment_digest(content, u.start_s, u.end_s) != stored.audio_digest(u.id):
            changed.append(u.id)
    return changed


def unused_stores(features: Path, runs: Path) -> list[StoredFeatures]:
    """List the stores that no run was trained on.

    A pre-training, also an unfinished one, lists its stores in `run.json`, those of extra corpora included.
    The header of every model has the digests of its features.

    Raises:
        StoreError: `runs` holds no run, or a run cannot be read: then every store might be needed.
    """
    folders = [folder for folder in runs.glob("*/*/") if _is_run(folder)]
    if not folders:
        fault = "holds no run" if runs.is_dir() else "is no folder"
        raise StoreError(
            f"{runs} {fault}, so it is not known which features are needed: check --runs (to remove all "
            f"features, delete {features})"
        )
    used = {name for folder in folders for name in _stores_of(folder)}
    return [stored for stored in stores(features) if str(stored.folder.relative_to(features)) not in used]


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or any(folder.glob("*.safetensors"))


def _stores_of(run: Path) -> Iterator[str]:
    """Yield `corpus/view-digest` of every store that a run was trained on."""
    for description in _descriptions(run):
        yield from description.get("feature stores", ())
        for name, digest in description.items():
            if name.endswith(" features"):
                yield f"{store.folder_name(run.parent.name)}/{name.removesuffix(' features')}-{digest}"


def _descriptions(run: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the card of a run and the header of each model in its folder."""
    paths = [*run.glob("run.json"), *run.glob("*.safetensors")]
    for path in paths:
        try:
            if path.suffix == ".json":
                yield json.loads(path.read_text())
            else:
                with safe_open(path, "numpy") as file:
                    yield {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        except (OSError, ValueError, SafetensorError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}), so it is not known which features this run needs: repair "
                "or remove the run first"
            ) from error
