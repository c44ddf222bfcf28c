# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy"]
# ///
"""The other side of `training.py`: the same pre-training in PyTorch, tuned as well as we could, 2 threads.

    python training_torch.py UTTERANCES VIEW ...    answers a line of input with an epoch's seconds and loss

Features lie in memory; hidden states are read and mixed utterance by utterance, in place, one matrix product
each, and nothing is computed for padding but in the convolutions, whose batches are padded to their longest
utterance. Hidden states stay float16 until they are read.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

BATCH = 128
SHAPES = {"wav2vec2": (50, (13, 768)), "mel": (100, (64,)), "egemaps": (0, (88,))}


def durations_s(count):
    rng = np.random.default_rng(0)
    return np.clip(np.exp(rng.normal(np.log(4.5) - 0.6**2 / 2, 0.6, count)), 0.6, 15)


def utterances(view, seconds):
    """One tensor per utterance, pieces of one block of memory."""
    rate, shape = SHAPES[view]
    dtype = torch.float16 if view == "wav2vec2" else torch.float32
    lengths = (seconds * rate).astype(int) if rate else np.ones(len(seconds), int)
    noise = torch.randn(4096, *shape).to(dtype)
    values = torch.empty(int(lengths.sum()), *shape, dtype=dtype)
    for first in range(0, len(values), 4096):
        values[first : first + 4096] = noise[: len(values) - first]
    return list(values.split(lengths.tolist()))


class Mix(torch.autograd.Function):
    """Weighted sum over the hidden states of each utterance; no gradient for the states."""

    @staticmethod
    def forward(ctx, weights, *states):
        ctx.states = states
        return torch.cat([torch.einsum("h,thd->td", weights, x.float()) for x in states])

    @staticmethod
    def backward(ctx, gradient):
        total, start = torch.zeros(13), 0
        for x in ctx.states:
            total += torch.einsum("thd,td->h", x.float(), gradient[start : start + len(x)])
            start += len(x)
        return (total, *(None,) * len(ctx.states))


def mean_of_each(x, lengths):
    return torch.stack([part.mean(dim=0) for part in x.split(lengths)])


class States(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(13))
        self.layers = nn.Sequential(
            nn.Linear(768, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.2)
        )

    def forward(self, batch):
        x = Mix.apply(self.weights / self.weights.sum(), *batch)
        return mean_of_each(self.layers(x), [len(u) for u in batch])


class Spectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        blocks, below = [], 64
        for channels, kernel in ((32, 7), (64, 5), (128, 3)):
            blocks += [
                nn.Conv1d(below, channels, kernel, padding=1),
                nn.ReLU(),
                nn.MaxPool1d(2),
                nn.Dropout(0.2),
            ]
            below = channels
        self.layers = nn.Sequential(*blocks)

    def forward(self, batch):
        x = self.layers(nn.utils.rnn.pad_sequence(batch, batch_first=True).transpose(1, 2))
        lengths = torch.tensor([len(u) for u in batch])
        for kernel in (7, 5, 3):
            lengths = (lengths + 3 - kernel) // 2
        valid = torch.arange(x.shape[2])[None] < lengths[:, None]
        return (x * valid[:, None]).sum(dim=2) / lengths[:, None]


class Functionals(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(88, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())

    def forward(self, batch):
        return self.layers(torch.cat(batch))


def pairwise(projections, temperature=0.5):
    """Eq. (3): both directions of every ordered pair."""
    z = [f.normalize(p, dim=1) for p in projections]
    target = torch.arange(len(z[0]))
    total, pairs = 0.0, len(z) * (len(z) - 1) // 2
    for i in range(len(z)):
        for j in range(i):
            similarity = z[i] @ z[j].T / temperature
            total = total + f.cross_entropy(similarity, target) + f.cross_entropy(similarity.T, target)
    return 2 * total / pairs


def main():
    torch.set_num_threads(2)
    torch.manual_seed(0)
    count, views = int(sys.argv[1]), sys.argv[2:]
    seconds = durations_s(count)
    data = {view: utterances(view, seconds) for view in views}
    encoder = {"wav2vec2": States, "mel": Spectrogram, "egemaps": Functionals}
    towers = nn.ModuleDict({
        view: nn.Sequential(
            encoder[view](), nn.Linear(128, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, 128)
        )
        for view in views
    })  # fmt: skip
    optimiser = torch.optim.Adam(towers.parameters(), lr=1e-3, fused=True)
    for _ in sys.stdin:
        start, losses = time.perf_counter(), []
        order = torch.randperm(count)
        for first in range(0, count - BATCH + 1, BATCH):
            rows = order[first : first + BATCH].tolist()
            loss = pairwise([towers[view]([data[view][row] for row in rows]) for view in views])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        print(time.perf_counter() - start, sum(losses) / len(losses), flush=True)


if __name__ == "__main__":
    main()
