"""Coverage of the intervals of `pcl learn`: no held-out speaker is learned from; numbers by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments.learn_coverage import (
    Draw,
    LearnCoverage,
    Predictions,
    draw_labels,
    learn_once,
    run,
    summarise,
    table,
)
from experiments.learn_coverage import subset as subset_of
from pcl_jax.commands.session import UsageError
from pcl_jax.evaluation.metrics import uar
from pcl_jax.inference.model_folder import load_model
from pcl_jax.learn import learning
from pcl_jax.training.classifier import predict
from pcl_jax.views.mel import MelView
from tests.learn.conftest import make, means

__all__ = ["means"]
VIEWS = {"mel": MelView()}


def corpus(speakers: int = 10, each: int = 12):
    """Two speakers a session, all clips labelled."""
    return make(speakers, each, labelled=1.0), np.repeat(np.arange(speakers) // 2, each) + 1


@pytest.mark.slow
def test_no_clip_of_a_held_out_speaker_is_learned_from_and_the_sessions_take_turns(means):
    data, sessions = corpus()
    for number, held_out in enumerate((1, 2, 3, 4, 5, 1)):
        means.calls = []
        draw, _ = learn_once(data, sessions, VIEWS, number, 40, 0)
        heard = {name for call in means.calls for name in call[2]}
        assert draw.session == held_out
        assert heard == set(data.speakers) - {f"s{2 * held_out - 2}", f"s{2 * held_out - 1}"}


def test_learning_sees_as_many_labels_as_were_drawn(means):
    data, sessions = corpus()
    learn_once(data, sessions, VIEWS, 0, 40, 0)
    assert [(call[1] >= 0).sum() for call in means.calls[-1:]] == [40]
    known = [draw_labels(data, 40, 0, number) for number in (0, 0, 1)]
    np.testing.assert_array_equal(known[0].labels, known[1].labels)
    assert (known[0].labels != known[2].labels).any()
    kept = known[0].labelled
    np.testing.assert_array_equal(known[0].labels[kept], data.labels[kept])


def test_a_draw_repeats_the_report_and_the_predictions_of_the_command(means, tmp_path):
    data, sessions = corpus()
    draw, predictions = learn_once(data, sessions, VIEWS, 1, 40, 3)
    test = subset_of(data, sessions == 2)
    known = draw_labels(subset_of(data, sessions != 2), 40, 3, 1)
    means.calls = []
    report = learning.learn(known, VIEWS, tmp_path / "model", seed=3)
    assert (draw.uar, draw.low, draw.high) == tuple(report[name] for name in ("uar", "low", "high"))
    assert draw.expected_calibration_error == report["calibration"]["error"]
    found = np.exp(load_model(tmp_path / "model").log_probabilities(test.vectors, test.speakers))
    np.testing.assert_array_equal(predictions.probabilities, found)
    assert draw.held_out == uar(test.labels, found.argmax(axis=1), 3)
    models = [means(*call, 3) for call in means.calls[:5]]
    assert draw.folds == np.mean(
        [uar(test.labels, predict(m, test.vectors).argmax(axis=1), 3) for m in models]
    )


def test_an_interval_covers_its_bounds_and_nothing_beyond():
    draw = Draw(1, 0.7, 0.6, 0.8, 0.6, 0.5, 0.1, 0.1, 1.0)
    assert draw.covered
    assert draw._replace(held_out=0.8).covered
    assert not draw._replace(held_out=0.59).covered
    assert not draw._replace(held_out=0.81).covered
    predictions = Predictions(np.array([0] * 8 + [1] * 2), np.array([[0.8, 0.2]] * 10))
    summary = summarise([draw, draw._replace(held_out=0.9)], [predictions, predictions])
    assert summary == {"covered": 1, "draws": 2, "pooled_calibration_error": 0.0}
    found = table([draw, draw._replace(held_out=0.9)], summary)
    assert found.title.startswith("1 of 2 intervals cover")
    assert found.rows[2] == ("UAR in %, held-out speakers, refitted model", "75.0 ± 190.6", "60.0", "90.0")
    assert found.rows[4][1:] == ("+25.0 ± 190.6", "+10.0", "+40.0")


def test_labels_that_are_too_few_or_too_many_are_refused(means):
    data, sessions = corpus()
    with pytest.raises(UsageError, match="--labels 97: draw 0 has 96 clips"):
        learn_once(data, sessions, VIEWS, 0, 97, 0)
    with pytest.raises(UsageError, match="a class that cannot be tested"):
        learn_once(replace(data, labels=np.minimum(data.labels, 1)), sessions, VIEWS, 0, 40, 0)


def write_table(folder: Path) -> Path:
    """Ten speakers with six noisy tones each; the pitch says the emotion."""
    rng, rows = np.random.default_rng(0), ["file,speaker,emotion"]
    for number in range(60):
        pitch = (200, 600, 1800)[number % 3]
        wave = np.sin(2 * np.pi * pitch * np.arange(4000) / 16_000) + 0.1 * rng.normal(size=4000)
        soundfile.write(folder / f"{number}.wav", 0.3 * wave, 16_000)
        rows.append(f"{number}.wav,speaker {number // 6},{('sad', 'calm', 'angry')[number % 3]}")
    (folder / "mine.csv").write_text("\n".join(rows) + "\n")
    return folder / "mine.csv"


def test_the_command_prints_a_table_and_keeps_every_draw(means, tmp_path, capsys):
    command = LearnCoverage(
        corpus="table", root=write_table(tmp_path), features=tmp_path / "features", workers=1, views=("mel",),
        draws=2, labels=30, json=tmp_path / "x.json",
    )  # fmt: skip
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "60 clips of 10 speakers; angry, calm, sad" in out
    assert "of 2 intervals cover the UAR of the held-out speakers" in out
    assert "| refitted - folds, points" in out
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["draws"], found["labels"], len(found["by_draw"])) == (2, 30, 2)
    assert [draw["session"] for draw in found["by_draw"]] == [1, 2]
    for values, says in (({"draws": 1}, "--draws 1"), ({"labels": 1}, "--labels 1")):
        with pytest.raises(UsageError, match=says):
            run(replace(command, **values))
