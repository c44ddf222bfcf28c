"""Reader of a checkpoint: files, the architecture that the config describes, tensors -> a SpeechModel.

The only module that imports transformers (which fills the gaps of a config and finds the files of a hub
name). No torch: see `torch_file`.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from pcl_jax.views.speech_models.families import DEFAULT_CHECKPOINTS, UNTRAINED, Family
from pcl_jax.views.speech_models.model import SpeechModel, untrained
from pcl_jax.views.speech_models.parameters import to_parameters
from pcl_jax.views.speech_models.torch_file import read_torch_file
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture
from pcl_jax.views.speech_models.whisper import WhisperArchitecture

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files to look for, in this order: safetensors can hold nothing but tensors."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint on this machine."""

    config: Path
    weights: Path
    preprocessor: Path | None

    def digest(self) -> str:
        """Return the SHA-256 over the contents of the config and the weights, hexadecimal."""
        total = hashlib.sha256()
        for path in (self.config, self.weights):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def load(
    checkpoint: str | os.PathLike[str], *, dtype: Literal["float32", "bfloat16"] = "float32"
) -> SpeechModel:
    """Load a frozen speech model: wav2vec 2.0, HuBERT or a Whisper encoder, as its config says.

    Heads, decoders and quantizers in the file are left out; the log (level INFO) names them.

    Args:
        checkpoint: A name on the Hugging Face hub, a folder with `config.json` and `model.safetensors`
            or `pytorch_model.bin`, one of those two files in such a folder, or `untrained` (a small
            wav2vec 2.0 base with random weights: see `untrained`).
        dtype: Dtype of the products and the residual stream; norms and softmax are float32 either way.

    Raises:
        FileNotFoundError: The checkpoint is not on this machine and cannot be fetched; says what to do.
        ValueError: The file is damaged or unsafe, the architecture is not one of the three (names the
            field of the config), or the tensors are not the architecture's (lists all of them).
    """
    if str(checkpoint) == UNTRAINED:
        return untrained("wav2vec2", dtype=dtype)
    files = find_files(checkpoint)
    family, architecture = read_architecture(files.config)
    try:
        parameters, others = to_parameters(_tensors(files.weights), family, architecture, dtype)
    except ValueError as error:
        raise ValueError(f"{files.weights}: {error}") from error
    if others:
        parts = sorted({".".join(name.split(".")[:2]) for name in others})
        log.info(
            "%s: %d tensors are no part of the encoder and were left out: %s",
            files.weights,
            len(others),
            ", ".join(parts),
        )
    return SpeechModel(parameters, architecture, family, dtype, _asks_for_normalisation(files.preprocessor))


def family_of(checkpoint: str) -> Family:
    """Return the family that a checkpoint's config names; `untrained` is a wav2vec 2.0.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    return "wav2vec2" if checkpoint == UNTRAINED else read_architecture(find_files(checkpoint).config)[0]


def find_files(checkpoint: str | os.PathLike[str]) -> CheckpointFiles:
    """Find the files of a checkpoint: in a local folder, in the cache of the hub, or on the hub.

    Raises:
        FileNotFoundError: A file is in none of them; names the remedy.
    """
    path = Path(checkpoint).expanduser()
    if path.exists():
        folder = path if path.is_dir() else path.parent
        named = [path] if path.is_file() else [folder / name for name in WEIGHT_FILES]
        weights = next((file for file in named if file.is_file()), None)
        lacking = [
            name
            for name, found in (
                ("config.json", (folder / "config.json").is_file()),
                (" or ".join(WEIGHT_FILES), weights is not None),
            )
            if not found
        ]
        if weights is None or lacking:
            raise FileNotFoundError(
                f"the checkpoint folder {folder} lacks {' and '.join(lacking)}: copy them there from the "
                "model's page on the hub"
            )
        preprocessor = folder / "preprocessor_config.json"
        return CheckpointFiles(
            folder / "config.json", weights, preprocessor if preprocessor.is_file() else None
        )

    name = str(checkpoint)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise FileNotFoundError(f"no folder or file {name}, and no hub name looks like that")
    config, reason = _hub_file(name, "config.json")
    weights = None
    if config is not None:
        for file in WEIGHT_FILES:
            weights, reason = _hub_file(name, file)
            if weights is not None:
                break
    if config is None or weights is None:
        raise FileNotFoundError(
            f"the checkpoint {name!r} is no local folder or file, is not in the cache and could not be "
            f"fetched ({reason}).\n"
            f"  With a network:    hf download {name} config.json preprocessor_config.json "
            f"{WEIGHT_FILES[0]}   (or {WEIGHT_FILES[1]} where the model has no other)\n"
            f"  Without one:       put config.json and {WEIGHT_FILES[0]} (or {WEIGHT_FILES[1]}) of "
            f"https://huggingface.co/{name}/tree/main into a folder and give the folder's path instead\n"
            f"  To try things out: the checkpoint {UNTRAINED!r}, random weights"
        )
    return CheckpointFiles(config, weights, _hub_file(name, "preprocessor_config.json")[0])


def _transformers() -> Any:
    # Silence its advice to install torch, which we do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # It would report each of five tries, twice; the error at the end is enough.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    import transformers

    return transformers


def _hub_file(name: str, file: str) -> tuple[Path | None, str]:
    """Return a file in the cache, fetched if need be; or None and the reason, in one line."""
    reason = f"it has no {file}"
    for only_cached in (True, False):  # without a network, asking the hub takes half a minute
        try:
            found = _transformers().utils.cached_file(name, file, local_files_only=only_cached)
        except OSError as error:
            reason = str(error).splitlines()[0]
        else:
            if found is not None:
                return Path(found), ""
    return None, reason


def _asks_for_normalisation(preprocessor: Path | None) -> bool:
    return preprocessor is not None and bool(json.loads(preprocessor.read_text()).get("do_normalize", False))


def read_architecture(
    config_file: Path,
) -> tuple[Family, Wav2Vec2Architecture | WhisperArchitecture]:
    """Read family and architecture from a `config.json`; transformers' defaults fill its gaps.

    Raises:
        ValueError: Names the field that asks for something these models do not have.
    """
    content = json.loads(config_file.read_text())
    family = content.get("model_type")
    if family not in DEFAULT_CHECKPOINTS:
        raise ValueError(
            f"{config_file}: model_type {family!r} is not supported; supported are "
            f"{', '.join(DEFAULT_CHECKPOINTS)}"
        )
    config = _transformers().AutoConfig.from_pretrained(config_file.parent)

    def only(field: str, *values: Any) -> None:
        value = getattr(config, field, values[0])
        if value not in values:
            known = ", ".join(map(repr, values))
            raise ValueError(f"{config_file}: {field} {value!r} is not supported; supported: {known}")

    if family == "whisper":
        only("activation_function", "gelu")
        return family, WhisperArchitecture(
            bands=config.num_mel_bins,
            width=config.d_model,
            layers=config.encoder_layers,
            heads=config.encoder_attention_heads,
            feed_forward=config.encoder_ffn_dim,
            positions=config.max_source_positions,
        )
    only("feat_extract_activation", "gelu")
    only("hidden_act", "gelu")
    only("feat_extract_norm", "group", "layer")
    only("conv_pos_batch_norm", False)
    only("adapter_attn_dim", None)
    return family, Wav2Vec2Architecture(
        conv_channels=tuple(config.conv_dim),
        conv_kernels=tuple(config.conv_kernel),
        conv_strides=tuple(config.conv_stride),
        conv_bias=config.conv_bias,
        conv_norm=config.feat_extract_norm,
        projection_norm=getattr(config, "feat_proj_layer_norm", True),
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        position_kernel=config.num_conv_pos_embeddings,
        position_groups=config.num_conv_pos_embedding_groups,
        pre_norm=config.do_stable_layer_norm,
        epsilon=config.layer_norm_eps,
    )


def _tensors(path: Path) -> Mapping[str, np.ndarray]:
    """Open either kind of file; each tensor is read when it is asked for."""
    if path.suffix == ".safetensors":
        return _SafetensorsFile(path)
    return read_torch_file(path)


class _SafetensorsFile(Mapping[str, np.ndarray]):
    """A mapping of names to tensors.

    Raises:
        ValueError: The file is cut short or no safetensors file.
    """

    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="np")
        except SafetensorError as error:
            raise ValueError(f"{path} is no complete safetensors file ({error}): fetch it again") from error
        self._names = frozenset(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
