"""The paper's formulas as loops in float64: slow, and simple enough to be compared with the paper by eye."""

import math

import numpy as np


def cosine(a, b):
    lengths = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / lengths if lengths else 0.0


def cross_entropy(similarities, positive, temperature):
    """Compute -log softmax at index `positive`, Eq. (1)."""
    logits = [s / temperature for s in similarities]
    top = max(logits)
    return top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[positive]


def directional(anchors, candidates, temperature, anchor_present=None, candidate_present=None):
    """Average Eq. (1) over the utterances that both views have; None if there are none."""
    n = len(anchors)
    anchor_present = [True] * n if anchor_present is None else anchor_present
    candidate_present = [True] * n if candidate_present is None else candidate_present
    rows = [m for m in range(n) if candidate_present[m]]
    losses = []
    for position, row in enumerate(rows):
        if anchor_present[row]:
            losses.append(
                cross_entropy([cosine(anchors[row], candidates[m]) for m in rows], position, temperature)
            )
    return math.fsum(losses) / len(losses) if losses else None


def paper(views, temperature):
    """Compute Eq. (2) and (3) in the paper's order of summation."""
    k, n = len(views), len(views[0])

    def pair_loss(i, j):
        total = 0.0
        for row in range(n):
            total += cross_entropy([cosine(views[i][row], views[j][m]) for m in range(n)], row, temperature)
            total += cross_entropy([cosine(views[j][row], views[i][m]) for m in range(n)], row, temperature)
        return total / n

    return sum(pair_loss(i, j) for i in range(k) for j in range(k) if i != j) / math.comb(k, 2)


def pairwise(views, temperature, mask=None, weights=None):
    """Compute Eq. (3) with masks `[k, n]`, weights `[k, k]` and temperatures `[k, k]`."""
    k, n = len(views), len(views[0])
    mask = np.ones((k, n), bool) if mask is None else np.broadcast_to(mask, (k, n))
    temperature = np.broadcast_to(temperature, (k, k))
    weights = np.ones((k, k)) if weights is None else weights
    total = weight = 0.0
    for i in range(k):
        for j in range(k):
            if i != j:
                loss = directional(views[i], views[j], temperature[i][j], mask[i], mask[j])
                if loss is not None:
                    total += weights[i][j] * loss
                    weight += weights[i][j]
    return 4 * total / weight if weight else 0.0


def slope(function, point, direction, step=1e-5):
    """Compute a directional derivative by a five-point difference, with error O(step^4)."""
    f = [function(point + m * step * direction) for m in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
