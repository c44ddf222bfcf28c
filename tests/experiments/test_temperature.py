"""Table 4's ranks from Table 4's own numbers; the table from made-up records."""

import numpy as np
import pytest

from experiments.temperature import PAPER, SCORES, VIEWS, against_paper, average_ranks, table

# Khaertdinov et al. 2024, Table 4, its last two columns.
PAPER_RANKS = [
    (4.67, 4.17), (2.50, 2.83), (6.67, 6.00), (3.00, 3.67), (6.00, 6.83),
    (2.33, 1.83), (7.67, 6.50), (3.50, 4.17), (8.67, 9.00),
]  # fmt: skip


def test_the_papers_ranks_come_from_the_papers_numbers():
    np.testing.assert_allclose(
        average_ranks(np.array([np.concatenate(line) for line in PAPER.values()])), PAPER_RANKS, atol=0.005
    )


def rows(folds, models, views=("a", "b")):
    for model, (temperature, frozen) in enumerate(models):
        for view in views:
            for fold in folds:
                scores = {name: (10 * model + fold + i) / 100 for i, name in enumerate(SCORES)}
                run = f"{temperature}{frozen}{view}{fold}"
                yield {
                    "run": run,
                    "title": view,
                    "repeat": 0,
                    "fold": fold,
                    "temperature": temperature,
                    "frozen": frozen,
                } | scores


MODELS = ((None, False), (0.1, False), (0.1, True))


def test_a_cell_is_the_mean_over_folds_and_supervised_training_is_one_line():
    supervised, tuned, frozen = table(list(rows((1, 2), MODELS))).rows
    assert supervised == ("supervised", "-", "-", *("1.5", "2.5", "3.5", "4.5") * 2, "3.00", "3.00")
    assert tuned[:4] == ("Pairwise-CL", "0.1", "tuned", "11.5")
    assert frozen[2] == "frozen"
    assert frozen[-2:] == ("1.00", "1.00")


@pytest.mark.parametrize("missing", [0, 5])
def test_a_cell_that_lacks_a_fold_shows_how_many_it_has_and_no_line_has_ranks(missing):
    found = list(rows((1, 2), MODELS))
    del found[missing]
    lines = table(found).rows
    assert sum("(1 of 2 folds)" in cell for line in lines for cell in line) == 4
    assert sum(line.count("not run") for line in lines) == 2 * 3


def test_a_model_that_was_not_run_on_a_view_has_cells_that_say_so():
    found = [row for row in rows((1, 2), MODELS) if (row["title"], row["frozen"]) != ("b", True)]
    lines = table(found).rows
    assert sum(line.count("not run") for line in lines) == 4 + 2 * 3


def test_a_line_for_iemocap_has_the_papers_number_ours_and_the_difference():
    found = [row | {"view": row["title"]} for row in rows((1, 2), MODELS, views=VIEWS)]
    lines = against_paper(found).rows
    # Test UAR of model 0: (0 + fold + 2) / 100, mean over folds 1 and 2 is 3.5 %; the paper's is 62.00.
    assert lines[0][3:6] == ("62.0", "3.5", "-58.5")
    assert lines[-1][3:6] == ("54.3", "not run", "not run")
    assert len(lines) == 9
    # Test WA of model 0 is one point above its test UAR; the paper's is 59.43.
    assert against_paper(found, "wa").rows[0][3:6] == ("59.4", "4.5", "-54.9")
