"""The example of a new objective runs, and `pcl` knows it."""

import importlib.util
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.config import Pretraining
from pcl_jax.training import objectives

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_objective.py"


@pytest.fixture
def uniform(monkeypatch):
    """Import the example; its objective is known until the test ends."""
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    spec = importlib.util.spec_from_file_location("new_objective", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.uniform


@pytest.mark.slow
def test_the_example_ranks_aligned_projections_first():
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    losses = {line.split(":")[0].strip(): float(line.split()[2]) for line in done.stdout.splitlines()}
    assert losses["aligned"] < losses["unrelated"] < losses["collapsed"]


def test_its_values_are_those_of_the_definition(uniform):
    """Wang and Isola 2020: mean |x - y|^2, and the log of the mean of exp(-2 |x - x'|^2) over pairs."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(5, 3)) for _ in range(2))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    loss, metrics = uniform({"a": jnp.asarray(3 * x), "b": jnp.asarray(y)})
    pairs = list(permutations(range(5), 2))
    spread = [np.log(np.mean([np.exp(-2 * np.sum((z[i] - z[j]) ** 2)) for i, j in pairs])) for z in (x, y)]
    assert metrics["alignment"] == pytest.approx(np.mean(np.sum((x - y) ** 2, axis=1)), rel=1e-5)
    assert metrics["uniformity"] == pytest.approx(np.mean(spread), rel=1e-5)
    assert loss == pytest.approx(metrics["alignment"] + metrics["uniformity"])


def test_padding_changes_nothing(uniform):
    x, y = (jax.random.normal(jax.random.key(seed), (6, 3)) for seed in (0, 1))
    mask = jnp.array([True] * 4 + [False] * 2)
    loss, _ = uniform({"a": x, "b": y}, None, mask)
    assert loss == pytest.approx(float(uniform({"a": x[:4], "b": y[:4]})[0]), rel=1e-5)


def test_pretraining_finds_it_by_its_name(uniform):
    assert objectives.build_objective(Pretraining(objective="uniform")) is uniform
