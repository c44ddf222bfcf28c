"""Speed of the feature store reading random utterances: against memcpy, and one padded .npy per utterance.

    python benchmarks/features.py --folder DIR    (8 GB of disk stored, and as much memory for the page cache)

Hidden states of wav2vec 2.0 base, float16 [t, 13, 768], durations as IEMOCAP's (log-normal, mean 4.5 s, 0.6
to 15 s). The peers' layout is one .npy per utterance, padded to 15 s (749 frames). Each round reads the same
random batch by each method, one after the other, from the page cache; the rates are of valid bytes, medians
over rounds. `memcpy` copies as many bytes between two arrays that are in memory already: the machine's limit,
for reading into a buffer that is used again and again (`out=`); fresh memory must be made first. So must
the mapping of the files' pages, once in a process: "first touch" is the first pass over the store.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcl_jax.features import store

SHAPE = (13, 768)
LONGEST = 749
BATCH = 32


def durations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the numbers of frames (20 ms each) of `count` utterances."""
    seconds = np.clip(np.exp(rng.normal(np.log(4.5) - 0.6**2 / 2, 0.6, count)), 0.6, 15)
    return np.minimum((seconds * 50).astype(int), LONGEST)


def rate(bytes_read: int, read: Callable[[], object]) -> float:
    """Measure a read in GB/s."""
    start = time.perf_counter()
    read()
    return bytes_read / (time.perf_counter() - start) / 1e9


def main() -> None:
    """Write a store and .npy files, and print the rates of reading them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    frames = durations(arguments.utterances, rng)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        describe = {"dtype": "float16"}
        with store.Writer(folder / "store", "states", describe) as writer:
            for first in range(0, len(frames), 16):
                rows = []
                for number in range(first, min(first + 16, len(frames))):
                    values = rng.standard_normal((frames[number], *SHAPE), np.float32).astype(np.float16)
                    rows.append(store.Row(str(number), "", values))
                    padded = np.zeros((LONGEST, *SHAPE), np.float16)
                    padded[: frames[number]] = values
                    np.save(folder / f"{number}.npy", padded)
                writer.write(rows)
        stored = store.open(folder / "store")
        frame = int(np.prod(SHAPE)) * 2
        size, parts = stored.bytes_on_disk / 1e9, len(store.parts(stored.folder))
        print(f"{len(frames)} utterances, {size:.2f} GB in {parts} parts")

        first = [rate(stored[id].nbytes, lambda id=id: stored.packed([id])) for id in stored]
        rates = {"first touch": first}
        buffer = np.ones((BATCH * LONGEST, *SHAPE), np.float16)
        for _ in range(arguments.rounds):
            batch = rng.choice(len(frames), BATCH, replace=False)
            bytes_read = int(frames[batch].sum()) * frame
            source = np.ones(bytes_read, np.uint8)
            target = np.ones_like(source)
            ids = [str(number) for number in batch]
            methods = {
                "store, buffer": lambda ids=ids: stored.packed(ids, out=buffer),
                "store, fresh": lambda ids=ids: stored.packed(ids),
                "memcpy": lambda t=target, s=source: np.copyto(t, s),
                "padded .npy": lambda b=batch: np.stack([np.load(folder / f"{n}.npy") for n in b]),
            }
            for name, read in methods.items():
                rates.setdefault(name, []).append(rate(bytes_read, read))
        for name, found in rates.items():
            print(f"{name:14s} {statistics.median(found):6.2f} GB/s")
        for first_name, second_name in (("store, buffer", "memcpy"), ("store, fresh", "padded .npy")):
            ratios = [a / b for a, b in zip(rates[first_name], rates[second_name], strict=True)]
            print(f"{first_name} / {second_name}: {statistics.median(ratios):.2f}")

        many = folder / "many"
        names = [f"utterance-{number:05d}" for number in range(10_000)]
        with store.Writer(many, "small", {"dtype": "float32"}) as writer:
            for first in range(0, len(names), 100):
                writer.write(
                    [store.Row(n, "d" * 64, np.zeros((4, 8), np.float32)) for n in names[first : first + 100]]
                )
        times = []
        for _ in range(5):
            start = time.perf_counter()
            store.open(many)
            times.append(time.perf_counter() - start)
        print(f"opening 10,000 utterances in 100 parts: {statistics.median(times):.3f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
