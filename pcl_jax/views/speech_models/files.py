"""Files of a checkpoint: in a local folder, in the cache of the Hugging Face hub, or on the hub."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_jax.views.speech_models.families import TINY, TINY_FOLDER, UNTRAINED

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files to look for, in this order: safetensors can hold nothing but tensors. Each may be sharded:
`model.safetensors.index.json` lists the files that hold the tensors."""
_WEIGHTS_OR_INDEX = tuple(name for file in WEIGHTS for name in (file, f"{file}.index.json"))


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint on this machine."""

    config: Path
    weights: tuple[Path, ...]
    """One file, or all shards."""
    preprocessor: Path | None
    """None: the checkpoint has none."""

    def digest(self) -> str:
        """Return the SHA-256 over the contents of the config and the weights, hexadecimal."""
        total = hashlib.sha256()
        for path in (self.config, *self.weights):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def find_files(checkpoint: str | os.PathLike[str]) -> CheckpointFiles:
    """Find the files of a checkpoint: in a local folder, in the cache of the hub, or on the hub.

    Args:
        checkpoint: See `load`.

    Raises:
        FileNotFoundError: A file is in none of them; names the remedy.
        ValueError: The index of a sharded checkpoint cannot be read.
    """
    path = TINY_FOLDER if str(checkpoint) == TINY else Path(checkpoint).expanduser()
    return _local_files(path) if path.exists() else _hub_files(str(checkpoint))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises: ValueError, which names the file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object: fetch it again")
    return content


def import_transformers() -> Any:
    """Import transformers, without its advice to install torch and its reports of every retry."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    import transformers

    return transformers


def _local_files(path: Path) -> CheckpointFiles:
    folder = path if path.is_dir() else path.parent
    named = [path] if path.is_file() else [folder / name for name in _WEIGHTS_OR_INDEX]
    weights = next((file for file in named if file.is_file()), None)
    lacking = [] if (folder / CONFIG).is_file() else [CONFIG]
    if weights is None:
        lacking.append(" or ".join(WEIGHTS))
    shards = () if weights is None else _shards(weights, lambda name: folder / name)
    lacking += [shard.name for shard in shards if not shard.is_file()]
    if lacking:
        raise FileNotFoundError(
            f"the checkpoint folder {folder} lacks {' and '.join(lacking)}: copy them there from the "
            "model's page on the hub"
        )
    preprocessor = folder / PREPROCESSOR
    return CheckpointFiles(folder / CONFIG, shards, preprocessor if preprocessor.is_file() else None)


def _hub_files(name: str) -> CheckpointFiles:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise FileNotFoundError(f"no folder or file {name}, and no hub name looks like that")

    def fetch(*files: str) -> Path:
        found, reason = _hub_file(name, *files)
        if found is None:
            raise FileNotFoundError(
                f"the checkpoint {name!r} is no local folder or file, is not in the cache and could not be "
                f"fetched ({reason}).\n"
                f"  With a network:    hf download {name} {CONFIG} {PREPROCESSOR} "
                f"{WEIGHTS[0]}   (or {WEIGHTS[1]} where the model has no other)\n"
                f"  Without one:       put {CONFIG} and {WEIGHTS[0]} (or {WEIGHTS[1]}) of "
                f"https://huggingface.co/{name}/tree/main into a folder and give the folder's path instead\n"
                f"  To try things out: the checkpoint {TINY!r}, which has heard synthetic voices alone, or "
                f"{UNTRAINED!r}, random weights"
            )
        return found

    config, weights = fetch(CONFIG), fetch(*_WEIGHTS_OR_INDEX)
    return CheckpointFiles(config, _shards(weights, fetch), _hub_file(name, PREPROCESSOR)[0])


def _shards(weights: Path, find: Callable[[str], Path]) -> tuple[Path, ...]:
    """Find the files that an index lists; a file that is no index is its own only shard."""
    if weights.suffix != ".json":
        return (weights,)
    names = read_json(weights).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{weights} lists no files of weights under 'weight_map': fetch it again")
    shards = sorted(set(names.values()))
    if outside := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{weights} names {outside[0]!r}, which is no file beside it: not read")
    return tuple(find(name) for name in shards)


def _hub_file(name: str, *files: str) -> tuple[Path | None, str]:
    """Return the first of these files in the cache, or fetch it; or None and the reason, in one line."""
    reason = f"it has no {files[0]}"
    for only_cached in (True, False):  # without a network, asking the hub takes half a minute
        for file in files:
            try:
                found = import_transformers().utils.cached_file(name, file, local_files_only=only_cached)
            except OSError as error:
                reason = str(error).splitlines()[0]
            else:
                if found is not None:
                    return Path(found), ""
    return None, reason
