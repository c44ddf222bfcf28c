"""All experiments on made-up features: every part has its table, and a kill anywhere changes nothing."""

import os
from dataclasses import replace

import pytest

from experiments import paper
from pcl_jax import cli
from pcl_jax.runs import plan, records
from pcl_jax.runs.records import Record
from pcl_jax.runs.study import Pretrain

COMMAND = paper.Paper(folds=(1, 2), repeats=2, fast=True)


class Killed(BaseException):
    """Nothing that the code could catch."""


def run(monkeypatch, study, command=COMMAND) -> dict[str, dict]:
    """The records, without what a clock says."""
    monkeypatch.setattr(cli, "open_study", lambda *_: study)
    paper.main(replace(command, runs=study.runs))
    return {row["run"]: {k: v for k, v in row.items() if k != "seconds"} for row in records.read(study.runs)}


@pytest.mark.slow
def test_a_paper_that_is_killed_again_and_again_has_the_records_of_one_that_is_not(make_study, monkeypatch):
    whole = run(monkeypatch, make_study(runs="whole"))
    broken, written = make_study(runs="broken"), records.append
    for survived in (0, 1, 10, 25, 3):
        left = [survived]

        def append(runs, record: Record, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            written(runs, record)

        monkeypatch.setattr(records, "append", append)
        with pytest.raises(Killed):
            run(monkeypatch, make_study(runs="broken"))
    monkeypatch.setattr(records, "append", written)
    assert run(monkeypatch, broken) == whole
    names = os.listdir(broken.runs / "report" / "tables")
    for part in ("share-of-labels", "by-temperature", "frozen-and-tuned", "alignment", "representations"):
        assert any(part in name for name in names), part
    assert not any("what-the-pre-training-saw" in name for name in names)  # 12 other utterances, no batch


def test_the_plan_has_what_the_paper_has(make_study):
    study = make_study()
    command = paper.Paper(folds=(1, 2, 3, 4, 5), repeats=10)
    parts = {part.title: part.steps for part in paper.parts_of(study, command)}
    # Figure 3: five folds, ten repeats, five shares, two views, three ways and three probes.
    figure3 = {step.folder for step in parts["Figure 3"]}
    assert len(figure3) == 5 + 5 * 10 * 5 * 2 * 6
    assert {step.folder for step in parts["Figure 3, two repeats"]} < figure3
    assert {step.folder for step in parts["Table 2"]} < figure3
    # Tables 1 and 4: five folds and four temperatures, frozen and tuned; supervised is the same for all.
    table4 = {step.folder for step in parts["Tables 1 and 4"]}
    assert len(table4) == 5 * (4 + 2 + 4 * 2 * 2)
    # Figure 4: its runs on everything are those of Figure 3.
    figure4 = {step.folder for step in parts["Figure 4"]}
    assert len(figure4 - figure3) == 5 * 2 * (1 + 10 * 4 * 2)
    assert "Sets of views" not in parts  # of two views there is one


def test_a_pretraining_comes_before_what_starts_from_it(make_study):
    for part in paper.parts_of(make_study(), COMMAND):
        for group in plan.groups(part.steps):
            first, *others = group.steps
            assert isinstance(first.run, Pretrain)
            folder = group.study.folder(first.run)
            assert {getattr(step.run, "pretrained", None) for step in others} <= {folder, None}
