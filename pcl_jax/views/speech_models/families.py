"""The families of speech models, and the checkpoint that stands for each by default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["wav2vec2", "hubert", "whisper"]
"""The `model_type` of a checkpoint's config."""

DEFAULT_CHECKPOINTS: Mapping[Family, str] = {
    "wav2vec2": "facebook/wav2vec2-base",
    "hubert": "facebook/hubert-base-ls960",
    "whisper": "openai/whisper-base",
}
"""Names on the Hugging Face hub."""

UNTRAINED = "untrained"
"""The checkpoint name of a small model with random weights."""

TINY = "tiny"
"""The checkpoint name of a tiny wav2vec 2.0 of ours, trained without labels on synthetic voices
(`scripts/tiny_speech_model.py`): the speech model of the demo."""
TINY_FOLDER = Path(__file__).parent / "tiny"
"""Its files."""
