"""Look after the stores of a features folder: what is there, is it whole, who needs it, take it elsewhere."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from safetensors import safe_open

from pcl_jax import audio
from pcl_jax.corpora.utterance import Utterance
from pcl_jax.features import store
from pcl_jax.features.store import Store, StoreError


@dataclass(frozen=True)
class StoredFeatures:
    """One store as it lies on disk."""

    folder: Path
    corpus: str
    view: str
    digest: str

    @property
    def bytes(self) -> int:
        return sum(part.stat().st_size for part in store.parts(self.folder))


def stores(features: Path) -> list[StoredFeatures]:
    """All stores of a features folder, sorted by corpus and view."""
    found = []
    for folder in sorted(features.glob("*/*-*")):
        view, _, digest = folder.name.rpartition("-")
        if folder.is_dir():
            found.append(StoredFeatures(folder, unquote(folder.parent.name), view, digest))
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
    files = audio.file_digests(u.path for u in known)
    changed = []
    for u in known:
        content = files[u.path]
        gone = isinstance(content, audio.AudioError)
        if gone or audio.segment_digest(content, u.start_s, u.end_s) != there.audio_digest(u.id):
            changed.append(u.id)
    return changed


def unused(features: Path, runs: Path) -> list[StoredFeatures]:
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
