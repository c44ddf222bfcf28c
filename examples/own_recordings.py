"""Own recordings: a table with a few labels -> features -> classifiers on few labels, with test scores.

    python examples/own_recordings.py

Synthetic voices stand in for recordings here: ten speakers, half of their clips without a label. With your
own, write the table yourself: one row per clip, columns `file`, `speaker`, `emotion` (empty where unknown).
The same from the command line: `pcl pretrain --corpus table --root mine.csv --views mel egemaps --compare`.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from pcl_jax.config import Finetuning, Pretraining, Settings
from pcl_jax.corpora import parse_targets, read
from pcl_jax.corpora.voice import SAMPLING_RATE, Manner, draw_sentence, speak
from pcl_jax.features.extract import extract
from pcl_jax.runs.runner import open_runner
from pcl_jax.runs.spec import Finetune, Labels, Probe
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView


def record(folder: Path) -> Path:
    """Write clips of ten speakers, calm or excited, and their table; label every second clip."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(10):
        for number in range(8):
            excited, woman = number % 4 < 2, speaker % 2 == 0
            pitch = (190 if woman else 110) * (1.4 if excited else 1.0) * rng.uniform(0.9, 1.1)
            rate = 5.5 if excited else 4.0
            tract = 1.17 if woman else 1.0
            manner = Manner(pitch, 3.0, -2.0, rate, -22.0, 1500.0, 0.01, 0.05, 0.05, tract)
            name = f"speaker{speaker}-{number}.wav"
            soundfile.write(folder / name, speak(manner, draw_sentence(7, rng), rng), SAMPLING_RATE)
            label = ("excited" if excited else "calm") if number % 2 else ""
            rows.append((name, f"speaker{speaker}", label))
    table = folder / "mine.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "speaker", "emotion"), *rows])
    return table


def main() -> None:
    """Read the table, extract two views, pre-train on all clips, train on two labels of each class."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = read("table", record(folder), targets=parse_targets(["calm", "excited"]))
        views = {"mel": MelView(), "egemaps": EgemapsView()}
        stores = extract(corpus, list(views.values()), folder / "features").stores
        settings = Settings(pretraining=Pretraining(epochs=5, batch=16), finetuning=Finetuning(epochs=20))
        runner = open_runner(corpus, views, stores, settings, runs=folder / "runs")
        fold = 1  # test session: the speakers are dealt to five
        start = runner.pretraining(fold)
        runner.pretrain(start)
        for repeat in range(3):
            few = Labels(per_class=2, repeat=repeat)
            for spec in (
                Probe(fold, "egemaps", "probe-raw", labels=few, settings=settings),
                Finetune(fold, "egemaps", None, labels=few, settings=settings),
                Finetune(fold, "egemaps", start, labels=few, settings=settings),
            ):
                row = runner.run_one(spec)
                print(f"repeat {repeat}, {row['method']:12} {row['n_labelled']} labels, UAR {row['uar']:.2f}")


if __name__ == "__main__":
    main()
