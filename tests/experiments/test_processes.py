"""Processes that do the runs of the paper together: what they leave is what one process leaves."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import paper, processes
from pcl_jax.runs import records

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
requires_two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="two CPUs to choose from are not here")


@pytest.fixture
def command(tmp_path: Path, emodb: Path) -> paper.Paper:
    """The tour on ten speakers and four emotions, with two tables of vectors."""
    names, rng = sorted(path.name for path in emodb.iterdir()), np.random.default_rng(0)
    for view in "one", "two":
        lines = [",".join([name, *map(str, rng.normal(size=4))]) for name in names]
        (tmp_path / f"{view}.csv").write_text("\n".join(["file,a,b,c,d", *lines]))
    views = tuple(f"{view}={tmp_path / view}.csv" for view in ("one", "two"))
    base = paper.Paper(
        corpus="emodb", root=emodb, views=views, features=tmp_path / "features",
        runs=tmp_path / "runs", devices=1, fast=True,
    )  # fmt: skip
    small = replace(base.pretraining, epochs=2, batch=8)
    return replace(base, pretraining=small, finetuning=replace(base.finetuning, epochs=2))


@requires_two_cpus
def test_processes_are_as_many_as_cpus_folds_and_workers_allow(command, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    many = processes.FEWEST_RUNS
    for changes, runs, count in (
        ({}, many, 4),
        ({}, many - 1, 1),  # not worth the start
        ({"workers": 3}, many, 3),
        ({"folds": (4, 5)}, many, 2),
        ({"table_only": True}, many, 1),
        ({"shard": "1/2"}, many, 1),  # of several hosts
        ({"processes": "auto"}, many, 1),
    ):
        assert processes.choose_count(replace(command, **changes), runs) == count
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert processes.choose_count(command, many) == 1


def without_clock(runs: Path) -> dict[str, dict]:
    return {
        row["run"]: {name: value for name, value in row.items() if name != "seconds"}
        for row in records.read(runs)
    }


@pytest.mark.slow
@requires_two_cpus
def test_two_processes_do_all_runs_and_have_the_same_bits_again(command, monkeypatch, tmp_path):
    """Who does a run is chance; each process has one CPU, and so the same rounding."""
    monkeypatch.setattr(paper, "quick", lambda command: replace(command, folds=(1, 2), repeats=1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(CPUS[:2]))
    cpus: list[set[int]] = []
    set_affinity = os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, own: (set_affinity(0, own), cpus.append(set(own))))
    monkeypatch.setattr(processes, "FEWEST_RUNS", 1)
    monkeypatch.setattr(paper, "do", require_nothing_to_do(paper.do))
    found = []
    for name in "once", "again":
        assert paper.run_paper(replace(command, runs=tmp_path / name)) == 0
        found.append(without_clock(tmp_path / name))
    first, second = CPUS[:2]
    assert cpus == 2 * [{first}, {first, second}, {second}, {first, second}]
    assert found[0] == found[1]
    assert {row["method"] for row in found[0].values()} >= {"pretraining", "supervised", "alignment"}


def require_nothing_to_do(do):
    """Fail where the process that started the others does a run; what is not possible stays so."""

    def required(part, runner, specs, *rest):
        before = [runner.ledger.find(spec) for spec in specs]
        do(part, runner, specs, *rest)
        assert [runner.ledger.find(spec) for spec in specs] == before

    return required


@pytest.mark.slow
@requires_two_cpus
def test_a_process_ends_with_the_one_that_is_stopped(command, monkeypatch):
    def stop():
        assert multiprocessing.active_children()
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "_WATCH_S", 0.5)
    with pytest.raises(KeyboardInterrupt):
        processes.work_together(command, 1, stop)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@requires_two_cpus
def test_a_process_that_fails_says_nothing_and_leaves_its_runs(command, capfd):
    """The corpus is gone: the process that started it meets the same error, and says it."""
    processes.work_together(replace(command, root=Path("gone")), 1, lambda: None)
    assert capfd.readouterr() == ("", "")
    assert not list(records.read(command.runs))
