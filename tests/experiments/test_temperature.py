"""Table 4's ranks from Table 4's own numbers; the table from made-up records."""

import numpy as np
import pytest

from experiments.temperature import SCORES, average_ranks, table

# Khaertdinov et al. 2024, Table 4. Columns: wav2vec 2.0, spectral, eGeMAPS-88, each validation UAR, WA, test
# UAR, WA. Rows: supervised; then tau = 0.1, 0.25, 0.5 and 1.0, each tuned and frozen. The validation WA of
# supervised eGeMAPS is cut off after "48." in our copy; whatever follows, its rank is 8.
PAPER = np.array([
    [61.35, 60.72, 62.00, 59.43, 55.11, 54.59, 53.39, 52.09, 48.62, 48.00, 49.97, 48.10],
    [62.49, 62.06, 62.24, 61.50, 53.36, 52.69, 51.20, 49.94, 51.32, 51.09, 51.38, 49.69],
    [55.67, 54.93, 57.18, 55.13, 47.78, 47.79, 47.45, 47.27, 49.08, 48.63, 50.05, 48.76],
    [62.88, 62.46, 62.38, 61.59, 53.17, 52.64, 50.69, 50.17, 50.85, 49.72, 50.77, 47.99],
    [57.11, 56.41, 56.77, 54.59, 47.20, 47.81, 47.07, 46.99, 49.54, 49.58, 48.99, 49.02],
    [62.73, 61.80, 63.11, 61.36, 54.89, 54.06, 53.37, 51.97, 50.66, 50.13, 52.96, 49.16],
    [55.60, 55.05, 55.43, 53.97, 47.15, 47.37, 50.34, 48.43, 48.81, 48.47, 49.65, 48.97],
    [62.22, 60.90, 62.35, 60.88, 53.99, 53.07, 51.97, 49.61, 50.60, 49.97, 50.34, 48.43],
    [55.40, 54.83, 54.33, 53.21, 47.39, 47.33, 47.00, 46.00, 47.57, 46.72, 48.74, 45.91],
])  # fmt: skip
PAPER_RANKS = [
    (4.67, 4.17), (2.50, 2.83), (6.67, 6.00), (3.00, 3.67), (6.00, 6.83),
    (2.33, 1.83), (7.67, 6.50), (3.50, 4.17), (8.67, 9.00),
]  # fmt: skip


def test_the_papers_ranks_come_from_the_papers_numbers():
    np.testing.assert_allclose(average_ranks(PAPER), PAPER_RANKS, atol=0.005)


def rows(folds, models, views=("a", "b")):
    for model, (temperature, frozen) in enumerate(models):
        for view in views:
            for fold in folds:
                scores = {name: (10 * model + fold + i) / 100 for i, name in enumerate(SCORES)}
                run = f"{temperature}{frozen}{view}{fold}"
                yield {
                    "run": run,
                    "title": view,
                    "fold": fold,
                    "temperature": temperature,
                    "frozen": frozen,
                } | scores


MODELS = ((None, False), (0.1, False), (0.1, True))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_the_mean_over_folds_and_a_supervised_run_counts_once():
    found = list(rows((1, 2), MODELS)) + list(rows((1,), MODELS[:1]))
    _, _, supervised, tuned, frozen = table(found, (1, 2))
    assert cells(supervised) == ["supervised", "-", "-", *("1.5", "2.5", "3.5", "4.5") * 2, "3.00", "3.00"]
    assert cells(tuned)[:4] == ["Pairwise-CL", "0.1", "tuned", "11.5"]
    assert cells(frozen)[2] == "frozen"
    assert cells(frozen)[-2:] == ["1.00", "1.00"]


@pytest.mark.parametrize("missing", [0, 5])
def test_what_was_not_run_is_said_and_has_no_ranks(missing):
    found = list(rows((1, 2), MODELS))
    del found[missing]
    lines = [cells(line) for line in list(table(found, (1, 2)))[2:]]
    assert sum(line.count("not run") for line in lines) == 4 + 2 * 3
