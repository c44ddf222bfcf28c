"""Frozen large speech models in Flax linen: wav2vec 2.0, HuBERT, the encoder of Whisper.

    >>> import numpy as np
    >>> from pcl_jax.views.speech_models import hidden_states, load
    >>> model = load("untrained")
    >>> hidden_states(model, np.zeros((2, 16_000), np.float32)).shape  # [n, t, h, d]
    (2, 49, 4, 64)

`transformer`, `wav2vec2`, `whisper`, `model` and `batched` are pure; `torch_file` and `checkpoint` read
files; `view` is what the feature store sees. Importing the package loads neither jax nor flax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcl_jax.views.speech_models.checkpoint import load
    from pcl_jax.views.speech_models.model import SpeechModel, hidden_states

__all__ = ["SpeechModel", "hidden_states", "load"]


def __getattr__(name: str) -> Any:
    """Import `load`, `SpeechModel` and `hidden_states` when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'checkpoint' if name == 'load' else 'model'}"), name)


def __dir__() -> list[str]:
    """List them too: for completion and for the documentation."""
    return sorted({*globals(), *__all__})
