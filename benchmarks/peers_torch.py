# /// script
# requires-python = ">=3.11"
# dependencies = ["audiosetfit==0.1.0"]
# ///
"""The other side of `peers.py` for audiosetfit: few-shot training on train.csv, predictions for test.csv.

    peers_torch.py WHISPER FOLDER [--frozen]

WHISPER holds Whisper's encoder alone. audiosetfit loads a whole model and uses its encoder, so the encoder is
first saved inside one whose decoder, of one layer, is random and never used. Everything else is audiosetfit's
default, with at most 256 pairs as in the example of its README.
"""

import csv
import sys
from pathlib import Path

from audiosetfit import AudioSetFitModel, Trainer, TrainingArguments
from datasets import Dataset
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

whisper, folder = map(Path, sys.argv[1:3])


def rows(name):
    """Rows of a CSV file in the folder."""
    with (folder / name).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def whole_model():
    """Folder of a model with the encoder's weights."""
    saved = folder.parent / "whisper"
    if not (saved / "model.safetensors").exists():
        config = WhisperConfig.from_pretrained(whisper, decoder_layers=1, decoder_attention_heads=8)
        model = WhisperModel(config)
        weights = {name: value.float() for name, value in load_file(whisper / "model.safetensors").items()}
        model.encoder.load_state_dict(weights)
        model.save_pretrained(saved)
        WhisperFeatureExtractor.from_pretrained(whisper).save_pretrained(saved)
    return saved


train, test = rows("train.csv"), rows("test.csv")
labels = sorted({row["emotion"] for row in train})
model = AudioSetFitModel.from_pretrained(str(whole_model()), labels=labels)
columns = {"audio": [row["file"] for row in train], "label": [row["emotion"] for row in train]}
Trainer(
    model=model,
    args=TrainingArguments(max_pairs=256, train_embeddings="--frozen" not in sys.argv),
    train_dataset=Dataset.from_dict(columns),
).train()
predicted = model.predict([row["file"] for row in test])
with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as handle:
    writer = csv.writer(handle)
    writer.writerow(["file", "predictions"])
    writer.writerows((row["file"], label) for row, label in zip(test, predicted, strict=True))
