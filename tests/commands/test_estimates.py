"""The times of a plan are those of docs/performance.md, within a half."""

import os
from types import SimpleNamespace

import pytest

from pcl_jax.commands.estimates import LEARNING_COMPILE_S, epoch_s, fit_s
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView

WAV2VEC2 = SimpleNamespace(kind="states", size=lambda seconds: 998_000 * seconds)
"""wav2vec 2.0 base, by the table of sizes."""


@pytest.mark.parametrize(
    ("views", "trained", "validated", "measured_s"),
    [
        ((MelView(), EgemapsView(), WAV2VEC2), 1024, 128, 4.6),
        ((MelView(),), 64, 1085, 0.449),
        ((WAV2VEC2,), 64, 1085, 1.41),
    ],
    ids=["pre-training", "mel", "wav2vec2"],
)
def test_an_epoch_takes_what_was_measured_on_two_cores(monkeypatch, views, trained, validated, measured_s):
    """Table "Training, against PyTorch", whose utterances have 4.5 s."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    estimated = epoch_s(views, 4.5 * trained, 4.5 * validated)
    assert measured_s < estimated < 1.5 * measured_s  # the plan says "at most"


def test_learning_takes_what_was_measured_on_two_cores(monkeypatch):
    """Table "Whole commands": the demo's 640 clips and three views, with the start and the extraction."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    estimated = LEARNING_COMPILE_S + 31 * fit_s(640, 3)
    assert 35 < estimated < 2 * 35
    assert fit_s(2100, 3) > 2 * fit_s(640, 3)
