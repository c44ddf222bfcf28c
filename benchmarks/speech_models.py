"""Speed of the features of wav2vec 2.0 base: ours against Hugging Face's torch, padded against bare.

    python benchmarks/speech_models.py --torch PYTHON    with the Python of an environment that has
                                                         speech_models_torch.py's dependencies
    python benchmarks/speech_models.py --dtype bfloat16  ours alone, as on an accelerator

About 5 minutes on two CPU cores. The audio is noise (its values change nothing), the durations those of
IEMOCAP: log-normal, mean 4.5 s, 0.6 to 15 s; or a corpus's own with --audio FOLDER (wav). The rounds
alternate, so that a machine that slows down slows all alike; the medians of their rates are compared.
Ours includes all that `features` does, float16 and the copy back; torch's the forward pass alone.
"""

import argparse
import resource
import statistics
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import soundfile

from pcl_jax.views.clip import Clip
from pcl_jax.views.speech_models.model import random_model
from pcl_jax.views.speech_models.view import SpeechModels, SpeechModelView
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture

SAMPLING_RATE = 16_000


def iemocap_like(count: int, rng: np.random.Generator) -> list[int]:
    """Draw the samples of each utterance; sigma 0.6 gives IEMOCAP's spread (quartiles near 2.5 and 5.6 s)."""
    durations_s = np.exp(rng.normal(np.log(4.5) - 0.6**2 / 2, 0.6, count))
    return [int(s * SAMPLING_RATE) for s in np.clip(durations_s, 0.6, 15)]


def flop(a: Wav2Vec2Architecture, samples: int) -> float:
    """Count the operations of the products for one bare utterance: two per multiplication."""
    total, below = 0, 1
    t = samples
    for channels, kernel, stride in zip(a.conv_channels, a.conv_kernels, a.conv_strides, strict=True):
        t = (t - kernel) // stride + 1
        total += t * kernel * below * channels
        below = channels
    total += t * below * a.width + t * a.width * a.position_kernel * a.width // a.position_groups
    total += a.layers * (t * a.width * (4 * a.width + 2 * a.feed_forward) + 2 * t * t * a.width)
    return 2.0 * total


def main() -> None:
    """Measure and print the rates of all alternatives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", help="Python of torch's environment")
    parser.add_argument("--audio", type=Path, help="folder of wav files to take the durations from")
    parser.add_argument("--utterances", type=int, default=16, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    if arguments.audio:
        files = sorted(arguments.audio.rglob("*.wav"))
        lengths = [round(soundfile.info(f).duration * SAMPLING_RATE) for f in files]
        lengths = [int(n) for n in rng.choice(lengths, arguments.utterances)]
    else:
        lengths = iemocap_like(arguments.utterances, rng)
    waveforms = [0.1 * rng.standard_normal(n, dtype=np.float32) for n in lengths]
    audio_s = sum(min(n, 15 * SAMPLING_RATE) for n in lengths) / SAMPLING_RATE

    architecture = Wav2Vec2Architecture()
    model = random_model("wav2vec2", architecture, dtype=arguments.dtype)
    views = {}
    for name, pad in (("bare", False), ("padded to 15 s", True)):
        config = SpeechModels(dtype=arguments.dtype, clip=Clip(pad=pad))
        views[name] = SpeechModelView("wav2vec2", config=config)
        views[name].__dict__["model"] = model  # no checkpoint is read

    mean_s = audio_s / len(lengths)
    print(
        f"{jax.devices()[0].device_kind}, {arguments.dtype}; {len(lengths)} utterances, mean {mean_s:.1f} s"
    )
    for name, view in views.items():
        start = time.perf_counter()
        view.features(waveforms)
        print(f"  {name}: first round, with compilation, {time.perf_counter() - start:.1f} s")

    torch = None
    if arguments.torch:
        script = Path(__file__).with_name("speech_models_torch.py")
        torch = subprocess.Popen(
            [arguments.torch, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    rates: dict[str, list[float]] = {name: [] for name in views} | ({"torch, bare": []} if torch else {})
    for round_ in range(arguments.rounds + 1):
        for name, view in views.items():
            start = time.perf_counter()
            view.features(waveforms)
            if round_:
                rates[name].append(audio_s / (time.perf_counter() - start))
        if torch and torch.stdin and torch.stdout:
            print(*lengths, file=torch.stdin, flush=True)
            seconds = float(torch.stdout.readline())
            if round_:  # its first is a warm-up, and so is ours
                rates["torch, bare"].append(audio_s / seconds)
    if torch and torch.stdin:
        torch.stdin.close()
        torch.wait()

    work = sum(flop(architecture, min(n, 15 * SAMPLING_RATE)) for n in lengths)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        utterances = rate * len(lengths) / audio_s
        print(
            f"  {name}: {rate:.1f} s of audio a second ({min(rates[name]):.1f} to {max(rates[name]):.1f}), "
            f"{utterances:.2f} utterances/s, {work * rate / audio_s / 1e9:.0f} useful GFLOP/s"
        )
    print(f"  bare / padded: {median['bare'] / median['padded to 15 s']:.2f}")
    if torch:
        print(f"  ours / torch, both bare: {median['bare'] / median['torch, bare']:.2f}")
    print(
        f"  peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
