"""Time of readouts: ours in dual form, many at once, against a loop over scikit-learn.

    python benchmarks/readouts.py [--rounds 3]

The work is the cross-validation of one method over a sweep: for each labelled subset and view six fits, one
without each of five groups of speakers and one on all. Vectors are synthetic, of the sizes that eGeMAPS, mel
and three hidden states of Whisper base have. Both sides start from the standardised vectors and end with the
log-probabilities of the labelled utterances; they alternate, and the median round of each is printed.
scikit-learn stops at its default tolerance, so its log-probabilities differ from ours (the largest difference
is printed); tests/training/test_readout.py compares both at convergence.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pcl_jax.training import readout
from pcl_jax.training.co_training import PENALTY
from pcl_jax.training.competence import GROUPS

SIZES = {"egemaps": 88, "mel": 128, "whisper": 3072}
CLASSES, SUBSETS, LABELS, UTTERANCES = 4, 10, 24, 320


def sweep() -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return the vectors of each view, the class of each utterance, and the rows of each labelled subset."""
    rng = np.random.default_rng(0)
    truth = np.arange(UTTERANCES) % CLASSES
    views = []
    for width in SIZES.values():
        means = rng.normal(size=(CLASSES, width))
        x = rng.normal(size=(UTTERANCES, width)) + 0.5 * means[truth]
        views.append(((x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(width)).astype(np.float32))
    subsets = [
        np.concatenate(
            [rng.permutation(np.flatnonzero(truth == c))[: LABELS // CLASSES] for c in range(CLASSES)]
        )
        for _ in range(SUBSETS)
    ]
    return views, truth, subsets


def kept_rows() -> np.ndarray:
    """Return the weights of the labelled rows in each of the six fits."""
    groups = np.arange(LABELS) % GROUPS
    return (groups[None] != np.arange(GROUPS + 1)[:, None]).astype(np.float32)


def ours(views: list[np.ndarray], truth: np.ndarray, subsets: list[np.ndarray]) -> np.ndarray:
    """Return log-probabilities `[subset, view, fit, row, class]`."""
    grams = np.stack([x @ x.T for x in views])
    found = []
    for rows in subsets:
        gram = grams[:, rows][:, :, rows]
        dual = readout.fit_all(gram, truth[rows], kept_rows(), CLASSES, PENALTY)
        logits = np.asarray(readout.logits(dual, gram[:, None]))
        found.append(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    return np.array(found)


def scikit_learn(views: list[np.ndarray], truth: np.ndarray, subsets: list[np.ndarray]) -> np.ndarray:
    """Return the same by one `LogisticRegression` after the other."""
    model = LogisticRegression(C=1 / PENALTY, max_iter=1000)
    found = np.zeros((len(subsets), len(views), GROUPS + 1, LABELS, CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for subset, rows in enumerate(subsets):
            for view, x in enumerate(views):
                for number, kept in enumerate(kept_rows() > 0):
                    model.fit(x[rows[kept]].astype(np.float64), truth[rows[kept]])
                    found[subset, view, number] = model.predict_log_proba(x[rows].astype(np.float64))
    return found


def main() -> None:
    """Alternate both sides and print their times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    work = sweep()
    ours(*work)  # compiles
    seconds: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    results = {}
    for _ in range(rounds):
        for name, function in (("ours", ours), ("scikit-learn", scikit_learn)):
            began = time.perf_counter()
            results[name] = function(*work)
            seconds[name].append(time.perf_counter() - began)
    fits = SUBSETS * len(SIZES) * (GROUPS + 1)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in times.items():
        print(f"{name:14} {value:8.3f} s for {fits} fits of {LABELS} rows, {1000 * value / fits:.3f} ms each")
    print(
        f"ratio {times['scikit-learn'] / times['ours']:.0f}, largest difference of a log-probability "
        f"{np.abs(results['ours'] - results['scikit-learn']).max():.1e}"
    )


if __name__ == "__main__":
    main()
