"""Reader of a checkpoint: the architecture that its config describes, its tensors -> a SpeechModel.

transformers fills the gaps of a config. No torch: see `torch_file`.
"""

import logging
import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from pcl_jax.views.speech_models.families import DEFAULT_CHECKPOINTS, UNTRAINED, Family
from pcl_jax.views.speech_models.files import find_files, import_transformers, read_json
from pcl_jax.views.speech_models.model import Architecture, SpeechModel, untrained
from pcl_jax.views.speech_models.parameters import to_parameters
from pcl_jax.views.speech_models.torch_file import read_torch_file
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture
from pcl_jax.views.speech_models.whisper import WhisperArchitecture

_LFS_POINTER = b"version https://git-lfs"

log = logging.getLogger(__name__)


def load(
    checkpoint: str | os.PathLike[str], *, dtype: Literal["float32", "bfloat16"] = "float32"
) -> SpeechModel:
    """Load a frozen speech model: wav2vec 2.0, HuBERT or a Whisper encoder, as its config says.

    Heads, decoders and quantizers in the file are left out; the log (level INFO) names them.

    Args:
        checkpoint: A name on the Hugging Face hub; a folder with `config.json` and `model.safetensors` or
            `pytorch_model.bin`, or with the shards of one of them and their index; one of those files in
            such a folder; `tiny` (a wav2vec 2.0 of ours, trained on synthetic voices); or `untrained` (a
            small wav2vec 2.0 base with random weights).
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
        tensors = ChainMap(*map(_tensors, files.weights))  # pyright: ignore[reportArgumentType]
        parameters, left_out = to_parameters(tensors, family, architecture, dtype)
    except ValueError as error:
        raise ValueError(f"{files.weights[0]}: {error}") from error
    if left_out:
        parts = sorted({".".join(name.split(".")[:2]) for name in left_out})
        log.info(
            "%s: %d tensors are no part of the encoder and were left out: %s",
            files.weights[0],
            len(left_out),
            ", ".join(parts),
        )
    normalise = asks_for_normalisation(files.preprocessor, architecture)
    return SpeechModel(parameters, architecture, family, dtype, normalise)


def family_of(checkpoint: str) -> Family:
    """Return the family that a checkpoint's config names; `untrained` is a wav2vec 2.0.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    return "wav2vec2" if checkpoint == UNTRAINED else read_architecture(find_files(checkpoint).config)[0]


def asks_for_normalisation(preprocessor: Path | None, architecture: Architecture) -> bool:
    """Return whether a checkpoint asks for waveforms of zero mean and unit variance.

    A file without the key has the default of transformers: yes for wav2vec 2.0 and HuBERT, no for Whisper.
    Without the file the answer is that of torchaudio's bundles: yes for models with layer-norm convolutions,
    which ask for a mask too.

    Raises:
        ValueError: The file is damaged.
    """
    if preprocessor is None:
        return architecture.asks_for_mask
    whisper = isinstance(architecture, WhisperArchitecture)
    return bool(read_json(preprocessor).get("do_normalize", not whisper))


def read_architecture(
    config_file: Path,
) -> tuple[Family, Architecture]:
    """Read family and architecture from a `config.json`; transformers' defaults fill its gaps.

    Raises:
        ValueError: Names the field that asks for something these models do not have.
    """
    content = read_json(config_file)
    family: Any = content.get("model_type")
    if family not in DEFAULT_CHECKPOINTS:
        raise ValueError(
            f"{config_file}: model_type {family!r} is not supported; supported are "
            f"{', '.join(DEFAULT_CHECKPOINTS)}"
        )
    config = import_transformers().AutoConfig.from_pretrained(config_file.parent)

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
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(
                f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
            )
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
