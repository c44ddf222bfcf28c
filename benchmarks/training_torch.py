# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy"]
# ///
"""The other side of `training.py`: the same training in PyTorch, tuned as well as we could, 2 threads.

    training_torch.py CORPUS UTTERANCES VIEW ...                 pre-training: answers a line of input with an
                                                                 epoch's seconds and loss
    training_torch.py CORPUS --sweep LABELLED UTTERANCES VIEW    fine-tunings, one after the other: answers a
                                                                 line with a number of epochs with one run's
                                                                 seconds and loss

Durations are those of iemocap or emodb.
Features lie in memory and nothing is computed for padding but in the convolutions, whose batches are padded
to their longest utterance (in evaluation, where order is free, batches are of utterances of like length).
Hidden states are float16, a block per state of each utterance, converted block by block in the cache: mixing
them by one product over float32 copies took twice as long, as did an einsum over [t, 13, 768].
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

BATCH, LABELLED_BATCH, EVALUATION_BATCH = 128, 64, 256
SHAPES = {"wav2vec2": (50, (13, 768)), "mel": (100, (64,)), "egemaps": (0, (88,))}


def durations_s(corpus, count):
    """Log-normal."""
    mean, sigma, shortest, longest = {"iemocap": (4.5, 0.6, 0.6, 15), "emodb": (2.8, 0.34, 1.2, 9)}[corpus]
    drawn = np.random.default_rng(0).normal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.exp(drawn), shortest, longest)


def utterances(view, seconds):
    """One tensor per utterance: [13, t * 768], [t, 64] or [1, 88]."""
    rate, shape = SHAPES[view]
    lengths = (seconds * rate).astype(int) if rate else np.ones(len(seconds), int)
    if view == "wav2vec2":
        noise = torch.randn(13, 800 * 768).half()
        return [noise[:, : t * 768].clone() for t in lengths]
    noise = torch.randn(2000, *shape)
    return [noise[:t].clone() for t in lengths]


class Mix(torch.autograd.Function):
    """Weighted sum over the hidden states of each utterance; no gradient for the states."""

    @staticmethod
    def forward(ctx, weights, *utterances):
        ctx.utterances = utterances
        first, *others = weights.tolist()
        ends = np.cumsum([x.shape[1] for x in utterances])
        mixed = torch.empty(ends[-1])
        for x, end in zip(utterances, ends, strict=True):
            part = mixed[end - x.shape[1] : end]
            torch.mul(x[0].float(), first, out=part)
            for state, weight in zip(x[1:], others, strict=True):
                part.add_(state.float(), alpha=weight)
        return mixed.view(-1, 768)

    @staticmethod
    def backward(ctx, gradient):
        total, start, gradient = torch.zeros(13), 0, gradient.reshape(-1)
        for x in ctx.utterances:
            part = gradient[start : start + x.shape[1]]
            total += torch.stack([state.float() @ part for state in x])
            start += x.shape[1]
        return (total, *(None,) * len(ctx.utterances))


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
        return mean_of_each(self.layers(x), [u.shape[1] // 768 for u in batch])


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


ENCODERS = {"wav2vec2": States, "mel": Spectrogram, "egemaps": Functionals}


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


def pretraining(corpus, count, views):
    seconds = durations_s(corpus, count)
    data = {view: utterances(view, seconds) for view in views}
    towers = nn.ModuleDict({
        view: nn.Sequential(
            ENCODERS[view](), nn.Linear(128, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, 128)
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


def finetuning(corpus, labelled, count, view):
    """A run trains on the first `labelled` utterances, and each epoch is validated on all others."""
    data = utterances(view, durations_s(corpus, count))
    labels = torch.randint(4, (count,))
    rest = sorted(range(labelled, count), key=lambda row: data[row].numel())
    for line in sys.stdin:
        start, loss = time.perf_counter(), torch.zeros(())
        model = nn.Sequential(ENCODERS[view](), nn.Linear(128, 4))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        best, kept = -1.0, None
        for _ in range(int(line)):
            model.train()
            order = torch.randperm(labelled)
            for first in range(0, labelled, LABELLED_BATCH):
                rows = order[first : first + LABELLED_BATCH]
                loss = f.cross_entropy(model([data[row] for row in rows.tolist()]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                found = [
                    model([data[row] for row in rest[first : first + EVALUATION_BATCH]]).argmax(dim=1)
                    for first in range(0, len(rest), EVALUATION_BATCH)
                ]
            right = torch.cat(found) == labels[rest]
            uar = torch.stack([right[labels[rest] == c].float().mean() for c in range(4)]).mean().item()
            if uar > best:
                best, kept = uar, {name: value.clone() for name, value in model.state_dict().items()}
        assert kept
        print(time.perf_counter() - start, loss.item(), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.manual_seed(0)
    corpus, first, *others = sys.argv[1:]
    if first == "--sweep":
        finetuning(corpus, int(others[0]), int(others[1]), others[2])
    else:
        pretraining(corpus, int(first), others)
