"""Speed of training: ours against the same training in PyTorch, on features in memory, in alternation.

    python benchmarks/training.py --torch PYTHON    PYTHON belongs to an environment that has
                                                    training_torch.py's dependencies
    python benchmarks/training.py --views mel egemaps --epochs 5
    python benchmarks/training.py --sweep --torch PYTHON
    python benchmarks/training.py --like emodb --torch PYTHON

The features are random, with the durations of IEMOCAP (log-normal, mean 4.5 s, 0.6 to 15 s) or EMO-DB (2.8 s,
1.2 to 9 s): wav2vec 2.0 base's states [t, 13, 768] in float16, mel [t, 64], eGeMAPS [88]. 1,024 utterances as
in IEMOCAP take 5 GB, in each of the two processes.

Pre-training: encoders, heads, loss, dropout, Adam and batches of 128 are the same; medians of the rates are
compared. A pass over the validation session belongs to our epochs and is not counted. Beside the rates: the
bytes of features that an epoch reads over the time that numpy's copy takes for as many, and its products over
the rate of a matrix product of 4,096 x 512 x 512, whichever limits more.

`--sweep`: fine-tuning, for each view alone. A fold of a sparse-label sweep as it is in the corpus at 2 %: 10
repeats x (supervised, tuned after pre-training) = 20 runs on IEMOCAP's 64 labelled utterances, each epoch
validated on 1,085 (EMO-DB: 4 and 68). Ours trains them as the experiments do; PyTorch one after the other,
and one is timed in each round.
"""

import argparse
import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pcl_jax import config
from pcl_jax.arrays import aligned
from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.batches import Layout, Packed
from pcl_jax.data.fold import FoldData
from pcl_jax.devices import mesh
from pcl_jax.models.encoders import FunctionalsEncoder, HiddenStatesEncoder, SpectrogramEncoder
from pcl_jax.models.heads import Classifier
from pcl_jax.models.networks import ClassifierNetwork, PretrainingNetworks
from pcl_jax.training import finetune, parallel_runs, pretrain

ENCODERS = {"mel": SpectrogramEncoder(), "egemaps": FunctionalsEncoder(), "wav2vec2": HiddenStatesEncoder()}
VALIDATION = 128
PRODUCTS = {
    "wav2vec2": 4 * (768 * 128) + 6 * (128 * 128) + 4 * 13 * 768,
    "mel": 4 * (7 * 64 * 32) + 6 * (5 * 32 * 64) // 2 + 6 * (3 * 64 * 128) // 4,
    "egemaps": 4 * (88 * 256) + 6 * (256 * 128),
}
"""Multiplications and additions per frame (or vector): 2 forward, 4 backward, but 2 in a first layer."""


class FoldSizes(NamedTuple):
    """The sizes of one fold of a corpus; its durations are log-normal."""

    train: int
    labelled: int
    """Labelled utterances: 2 % of the labels."""
    validated: int
    mean_s: float
    sigma: float
    range_s: tuple[float, float]

    def draw_durations_s(self, count: int) -> np.ndarray:
        """Draw the durations of so many utterances."""
        drawn = np.random.default_rng(0).normal(np.log(self.mean_s) - self.sigma**2 / 2, self.sigma, count)
        return np.clip(np.exp(drawn), *self.range_s)


LIKE = {
    "iemocap": FoldSizes(1024, 64, 1085, 4.5, 0.6, (0.6, 15)),  # a sixth of its 6,000 training utterances
    "emodb": FoldSizes(320, 4, 68, 2.8, 0.34, (1.2, 9)),
}


def make_features(view: str, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return repeated noise end to end, and the frames of each utterance (0: one vector)."""
    rng = np.random.default_rng(1)
    rate, shape, dtype = {
        "wav2vec2": (50, (13, 768), np.float16),
        "mel": (100, (64,), np.float32),
        "egemaps": (0, (88,), np.float32),
    }[view]
    lengths = (seconds * rate).astype(int)
    rows = int(lengths.sum()) if rate else len(seconds)
    noise = rng.standard_normal((4096, *shape), np.float32).astype(dtype)
    values = aligned((rows, *shape), dtype)
    for first in range(0, rows, 4096):
        values[first : first + 4096] = noise[: rows - first]
    return values, lengths


def make_fold(sizes: FoldSizes, train: int, validation: int, views: list[str]) -> FoldData:
    """Return a fold with so many utterances to train on and to validate with, and one to test."""
    seconds = sizes.draw_durations_s(train + validation + 1)
    emotions = np.random.default_rng(2).integers(4, size=len(seconds))
    sessions = [*(3 + 3 * i // train for i in range(train)), *[2] * validation, 1]
    utterances = tuple(
        Utterance(str(i), Path("none"), session, "a", str(emotion), float(s))
        for i, (s, session, emotion) in enumerate(zip(seconds, sessions, emotions, strict=True))
    )
    packed, lengths = {}, {}
    for view in views:
        values, frames = make_features(view, seconds)
        rows = np.maximum(frames, 1)
        packed[view] = jax.device_put(Packed(values, np.cumsum(rows) - rows, frames))
        if frames.any():
            lengths[view] = frames
    fold = Fold(1, utterances[:train], utterances[train:-1], utterances[-1:])
    ids = tuple(u.id for u in utterances)
    corpus = Corpus("noise", utterances, {name: (name,) for name in "0123"})
    return FoldData(corpus, fold, ids, packed, lengths, emotions, Layout(), {})


def measure_limits_s(data: FoldData) -> dict[str, float]:
    """Measure the least seconds that one epoch can take: to read its features, and to multiply."""
    train = len(data.train)
    bytes_read = flop = 0
    for view, packed in data.features.items():
        rows = int(data.lengths[view][:train].sum()) if view in data.lengths else train
        bytes_read += rows * packed.values.dtype.itemsize * int(np.prod(packed.values.shape[1:]))
        flop += rows * PRODUCTS[view]
    source = np.ones(2**28, np.uint8)
    target = np.ones_like(source)
    x, y = jnp.ones((4096, 512)), jnp.ones((512, 512))
    product = jax.jit(lambda x, y: x @ y)
    copy_s = time_fastest_s(lambda: np.copyto(target, source))
    product_s = time_fastest_s(lambda: product(x, y).block_until_ready())
    return {
        "bytes": bytes_read * copy_s / 2**28,
        "products": flop * product_s / (2 * 4096 * 512 * 512),
    }


def time_fastest_s(work) -> float:
    """Return the least seconds of five calls, after one that compiles."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Torch:
    """The process that trains in PyTorch, one epoch or run for each call."""

    def __init__(self, python: str, *words: object):
        """Start it with the Python of its environment and the words of its command line."""
        script = Path(__file__).with_name("training_torch.py")
        self._process = subprocess.Popen(
            [python, str(script), *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, line: object = "") -> tuple[float, float]:
        """Train once more; return seconds and loss."""
        assert self._process.stdin
        assert self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        seconds, loss = self._process.stdout.readline().split()
        return float(seconds), float(loss)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def format_spread(values: list[float], digits: int = 2) -> str:
    """Return median and range as text."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def measure_pretraining(corpus: str, views: list[str], epochs: int, torch: str | None) -> None:
    """Print the rates of pre-training, the limits of this machine and the memory."""
    count = LIKE[corpus].train
    data = make_fold(LIKE[corpus], count, VALIDATION, views)
    limits = measure_limits_s(data)
    networks = PretrainingNetworks(tuple((view, ENCODERS[view]) for view in views))
    devices = mesh(1)
    began = time.perf_counter()
    ours = pretrain.pretrain(
        data, networks, config.Pretraining(epochs=epochs + 1), seed=0, mesh=devices,
        progress=pretrain.initial_progress(data, networks, seed=0, mesh=devices),
    )  # fmt: skip
    first = next(ours)[1]
    print(
        f"{jax.devices()[0].device_kind}; {count} utterances, {', '.join(views)}\n"
        f"  first epoch with compilation {time.perf_counter() - began:.1f} s, loss {first['loss']:.3f}"
    )
    peer = Torch(torch, corpus, count, *views) if torch else None
    whole = count // 128 * 128
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for number, (_, row) in enumerate(ours):
        seconds["ours"].append(whole / row["utterances_per_s"])
        if peer:
            took, loss = peer()
            seconds["torch"].append(took)
            if number == 0:
                print(f"  torch's first loss {loss:.3f}")
    for name, found in seconds.items():
        if found:
            rate = whole / statistics.median(found)
            print(f"  {name}: {format_spread(found)} s an epoch, {rate:.0f} utterances/s")
    if peer:
        peer.close()
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["torch"], strict=True)]
        print(f"  ours is {format_spread(ratios)} times as fast")
    bound = max(limits, key=lambda name: limits[name])
    print(f"  limits: bytes {limits['bytes']:.2f} s, products {limits['products']:.2f} s an epoch")
    print(f"  ours: {limits[bound] / statistics.median(seconds['ours']):.2f} of the {bound} limit")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    held = sum(packed.values.nbytes for packed in data.features.values()) / 2**30
    print(f"  peak memory of this process {peak:.2f} GiB, of which features {held:.2f}")


REPEATS = 10


def measure_sweep(corpus: str, view: str, epochs: int, rounds: int, torch: str | None) -> None:
    """Print the time of one epoch of one fine-tuning run."""
    like, devices = LIKE[corpus], mesh(1)
    data = make_fold(like, like.labelled, like.validated, [view])
    model = ClassifierNetwork(view, ENCODERS[view], Classifier(4))
    encoder = jax.device_get(finetune.init_params(model, data.example()[view], seed=0)["encoder"])
    runs = [finetune.Run(data.train, r, start) for start in (None, encoder) for r in range(REPEATS)]

    def ours(epochs: int) -> float:
        """Return the seconds per run."""
        settings = config.Finetuning(epochs=epochs, patience=epochs + 1)
        size = parallel_runs.max_runs_per_program(data, model, devices, frozen=False)
        began = time.perf_counter()
        for first in range(0, len(runs), size):
            finetune.finetune(
                data, model, runs[first : first + size], settings, frozen=False, seed=0, mesh=devices
            )
        return (time.perf_counter() - began) / len(runs)

    ours(1)
    peer = (
        Torch(torch, corpus, "--sweep", like.labelled, like.labelled + like.validated, view)
        if torch
        else None
    )
    if peer:
        peer(1)
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(rounds):
        seconds["ours"].append(1000 * ours(epochs) / epochs)
        if peer:
            seconds["torch"].append(1000 * peer(epochs)[0] / epochs)
    print(f"{view}, {len(runs)} runs: ours {format_spread(seconds['ours'], 1)} ms an epoch of a run", end="")
    if peer:
        peer.close()
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["torch"], strict=True)]
        print(f", torch {format_spread(seconds['torch'], 1)}: {format_spread(ratios)} times as fast", end="")
    print(flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", help="Python of torch's environment")
    parser.add_argument("--views", nargs="+", choices=list(ENCODERS), default=list(ENCODERS))
    parser.add_argument("--sweep", action="store_true", help="fine-tuning")
    parser.add_argument("--like", choices=list(LIKE), default="iemocap", help="durations and sizes")
    parser.add_argument("--epochs", type=int, default=5, help="of pre-training, or rounds of the sweep")
    arguments = parser.parse_args()
    if not arguments.sweep:
        measure_pretraining(arguments.like, arguments.views, arguments.epochs, arguments.torch)
        return
    print(f"{jax.devices()[0].device_kind}; fine-tuning as in {arguments.like}")
    for view in arguments.views:
        measure_sweep(
            arguments.like,
            view,
            20 if view == "egemaps" or arguments.like == "emodb" else 2,
            arguments.epochs,
            arguments.torch,
        )


if __name__ == "__main__":
    main()
