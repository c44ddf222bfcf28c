"""How fast Pairwise-CL pre-trains: ours against the same training in PyTorch, on features in memory.

    python benchmarks/training.py --torch PYTHON    with the Python of an environment that has
                                                    training_torch.py's dependencies
    python benchmarks/training.py --views mel egemaps

Made-up features of IEMOCAP's durations (log-normal, mean 4.5 s, 0.6 to 15 s): wav2vec 2.0 base's states
[t, 13, 768] in float16, mel [t, 64], eGeMAPS [88]; 1,024 utterances take 5 GB, in each of the two processes.
Encoders, heads, loss, dropout, Adam and batches of 128 are the same. Epochs alternate, so that a machine
that slows down slows both alike; medians of the rates are compared. A pass over the validation session
belongs to our epochs and is not counted.

Beside the rates: the bytes of features that an epoch reads over the time that numpy's copy takes for as many,
and its products over the rate of a matrix product of 4,096 x 512 x 512, whichever limits more.
"""

import argparse
import resource
import statistics
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pcl_jax import config
from pcl_jax.batches import Layout, Packed
from pcl_jax.corpora.folds import Fold
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.encoders import FunctionalsEncoder, SpectrogramEncoder, Wav2Vec2Encoder
from pcl_jax.training import pretrain
from pcl_jax.training.devices import mesh
from pcl_jax.training.fold_data import FoldData
from pcl_jax.training.networks import Networks

ENCODERS = {"mel": SpectrogramEncoder(), "egemaps": FunctionalsEncoder(), "wav2vec2": Wav2Vec2Encoder()}
VALIDATION = 128
PRODUCTS = {
    "wav2vec2": 4 * (768 * 128) + 6 * (128 * 128) + 4 * 13 * 768,
    "mel": 4 * (7 * 64 * 32) + 6 * (5 * 32 * 64) // 2 + 6 * (3 * 64 * 128) // 4,
    "egemaps": 4 * (88 * 256) + 6 * (256 * 128),
}
"""Multiplications and additions of a frame (or vector): 2 forward, 4 backward, but 2 in a first layer."""


def durations_s(count: int) -> np.ndarray:
    """Of IEMOCAP's spread: quartiles near 2.5 and 5.6 s."""
    rng = np.random.default_rng(0)
    return np.clip(np.exp(rng.normal(np.log(4.5) - 0.6**2 / 2, 0.6, count)), 0.6, 15)


def features(view: str, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end, and frames of each utterance (0: one vector). Noise that repeats itself."""
    rng = np.random.default_rng(1)
    rate, shape, dtype = {
        "wav2vec2": (50, (13, 768), np.float16),
        "mel": (100, (64,), np.float32),
        "egemaps": (0, (88,), np.float32),
    }[view]
    lengths = (seconds * rate).astype(int)
    rows = int(lengths.sum()) if rate else len(seconds)
    noise = rng.standard_normal((4096, *shape), np.float32).astype(dtype)
    values = np.empty((rows, *shape), dtype)
    for first in range(0, rows, 4096):
        values[first : first + 4096] = noise[: rows - first]
    return values, lengths


def fold_of(count: int, views: list[str]) -> FoldData:
    """So many training utterances, and some to validate with."""
    seconds = durations_s(count + VALIDATION)
    utterances = tuple(Utterance(str(i), Path("none"), 1, "a", None, float(s)) for i, s in enumerate(seconds))
    packed, lengths = {}, {}
    for view in views:
        values, frames = features(view, seconds)
        rows = np.maximum(frames, 1)
        packed[view] = jax.device_put(Packed(values, np.cumsum(rows) - rows, frames))
        if frames.any():
            lengths[view] = frames
    fold = Fold(1, utterances[:count], utterances[count:], ())
    ids = tuple(u.id for u in utterances)
    labels = np.full(len(ids), -1)
    return FoldData(Corpus("noise", utterances, {}), fold, ids, packed, lengths, labels, Layout(), {})


def limits_s(data: FoldData) -> dict[str, float]:
    """The least that one epoch can take: to read its features, and to multiply."""
    train = len(data.train)
    bytes_read = flop = 0
    for view, packed in data.features.items():
        rows = int(data.lengths[view][:train].sum()) if view in data.lengths else train
        bytes_read += rows * packed.values.dtype.itemsize * int(np.prod(packed.values.shape[1:]))
        flop += rows * PRODUCTS[view]
    source = np.ones(2**30, np.uint8)
    target = np.ones_like(source)
    x, y = jnp.ones((4096, 512)), jnp.ones((512, 512))
    product = jax.jit(lambda x, y: x @ y)
    copy_s = fastest(lambda: np.copyto(target, source))
    product_s = fastest(lambda: product(x, y).block_until_ready())
    return {
        "bytes": bytes_read * copy_s / 2**30,
        "products": flop * product_s / (2 * 4096 * 512 * 512),
    }


def fastest(work) -> float:
    """Seconds, of five."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", help="Python of torch's environment")
    parser.add_argument("--views", nargs="+", choices=list(ENCODERS), default=list(ENCODERS))
    parser.add_argument("--utterances", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    data = fold_of(arguments.utterances, arguments.views)
    limits = limits_s(data)
    networks = Networks(tuple((view, ENCODERS[view]) for view in arguments.views))
    settings = config.Pretraining(epochs=arguments.epochs + 1)
    on = mesh(1)
    began = time.perf_counter()
    epochs = pretrain.pretrain(
        data, networks, settings, seed=0, mesh=on,
        progress=pretrain.beginning(data, networks, seed=0, mesh=on),
    )  # fmt: skip
    first = next(epochs)[1]
    print(
        f"{jax.devices()[0].device_kind}; {arguments.utterances} utterances, {', '.join(arguments.views)}\n"
        f"  first epoch with compilation {time.perf_counter() - began:.1f} s, loss {first['loss']:.3f}"
    )
    other = None
    if arguments.torch:
        script = Path(__file__).with_name("training_torch.py")
        other = subprocess.Popen(
            [arguments.torch, str(script), str(arguments.utterances), *arguments.views],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    rates: dict[str, list[float]] = {"ours": []} | ({"torch": []} if other else {})
    for number, (_, row) in enumerate(epochs):
        rates["ours"].append(row["utterances_per_s"])
        if other and other.stdin and other.stdout:
            print("epoch", file=other.stdin, flush=True)
            seconds, loss = map(float, other.stdout.readline().split())
            rates["torch"].append(arguments.utterances // 128 * 128 / seconds)
            if number == 0:
                print(f"  torch's first loss {loss:.3f}")
    if other and other.stdin:
        other.stdin.close()
        other.wait()
    for name, found in rates.items():
        rate = statistics.median(found)
        print(
            f"  {name}: {arguments.utterances / rate:.2f} s an epoch, {rate:.0f} utterances/s "
            f"({min(found):.0f} to {max(found):.0f})"
        )
    ours = arguments.utterances / statistics.median(rates["ours"])
    bound = max(limits, key=lambda name: limits[name])
    print(f"  limits: bytes {limits['bytes']:.2f} s, products {limits['products']:.2f} s an epoch")
    print(f"  ours: {limits[bound] / ours:.2f} of the {bound} limit")
    if other:
        ratios = [a / b for a, b in zip(rates["ours"], rates["torch"], strict=True)]
        print(f"  ours / torch: {statistics.median(ratios):.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    held = sum(packed.values.nbytes for packed in data.features.values()) / 2**30
    print(f"  peak memory of this process {peak:.2f} GiB, of which features {held:.2f}")


if __name__ == "__main__":
    main()
