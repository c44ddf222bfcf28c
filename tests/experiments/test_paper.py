"""All experiments on made-up features: every part has its table, and a kill anywhere changes nothing."""

import os
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest

from experiments import paper
from pcl_jax.commands import session
from pcl_jax.corpora.utterance import NotPossible
from pcl_jax.runs import plan, records
from pcl_jax.runs.spec import Measure, Pretrain
from pcl_jax.runs.tables import NOT_RUN

COMMAND = paper.Paper(folds=(1, 2), repeats=2, fast=True)


class Killed(BaseException):
    """An end that no code can catch."""


def run_code(monkeypatch, runner, command=COMMAND) -> int:
    """Run the paper; return its exit code."""
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: runner)
    return paper.run_paper(replace(command, runs=runner.ledger.runs))


def run(monkeypatch, runner, command=COMMAND) -> dict[str, dict]:
    """Run the paper; return the records without the values of a clock."""
    assert run_code(monkeypatch, runner, command) == 0
    return {
        row["run"]: {name: value for name, value in row.items() if name != "seconds"}
        for row in records.read(runner.ledger.runs)
    }


@pytest.mark.slow
def test_a_paper_that_is_killed_again_and_again_has_the_records_of_one_that_is_not(make_runner, monkeypatch):
    whole = run(monkeypatch, make_runner(runs="whole"))
    broken, written = make_runner(runs="broken"), records.append
    for survived in (0, 1, 10, 25, 3):
        budget = [survived]

        def append(runs, row, budget=budget):
            if not budget[0]:
                raise Killed
            budget[0] -= 1
            written(runs, row)

        monkeypatch.setattr(records, "append", append)
        with pytest.raises(Killed):
            run(monkeypatch, make_runner(runs="broken"))
    monkeypatch.setattr(records, "append", written)
    assert run(monkeypatch, broken) == whole
    names = os.listdir(broken.ledger.runs / "report" / "tables")
    for part in ("share-of-labels", "by-temperature", "frozen-and-tuned", "alignment", "representations"):
        assert any(part in name for name in names), part
    (name,) = [name for name in names if name.endswith("what-the-pre-training-saw.md")]
    table = (broken.ledger.runs / "report" / "tables" / name).read_text()
    lines = [line.split("|") for line in table.splitlines() if line.startswith(("| mel", "| egemaps"))]
    assert len(lines) == 2  # all and target are shown; of other emotions there are 6 utterances, no batch
    assert all(line[4].strip() != NOT_RUN and line[5].strip() == NOT_RUN for line in lines)
    assert {row["method"] for row in whole.values()} >= {"alignment", "embeddings", "model_sizes"}


def names_of(runner, specs) -> set[str]:
    return {runner.ledger.name(spec) for spec in specs}


def test_the_plan_has_the_runs_of_the_paper(make_runner):
    runner = make_runner()
    command = paper.Paper(folds=(1, 2, 3, 4, 5), repeats=10)
    parts = {part.title: names_of(runner, part.specs) for part in paper.parts_of(runner, command)}
    # Figure 3: five folds, ten repeats, five shares, two views, three methods and three probes.
    figure3 = parts["Figure 3"]
    assert len(figure3) == 5 + 5 * 10 * 5 * 2 * 6
    assert parts["Figure 3, two repeats"] < figure3
    assert parts["Table 2"] < figure3
    # Tables 1 and 4: five folds and four temperatures, frozen and tuned; supervised is the same for all.
    assert len(parts["Tables 1 and 4"]) == 5 * (4 + 2 + 4 * 2 * 2)
    # Figure 4: its runs on everything are those of Figure 3.
    assert len(parts["Figure 4"] - figure3) == 5 * 2 * (1 + 10 * 4 * 2)
    # Table 3: both orders of the pair on each fold; Figures 5 and 6: the last fold.
    assert len(parts["Table 3"] - figure3) == 5 * 2
    assert len(parts["Figures 5 and 6"] - figure3) == 1
    assert "Sets of views" not in parts  # of two views there is one


def test_a_pretraining_comes_before_the_runs_that_start_from_it(make_runner):
    for part in paper.parts_of(make_runner(), COMMAND):
        if part.title == "Table 5":  # counts parameters alone
            continue
        for group in plan.groups(part.specs):
            first, *following = group.specs
            assert isinstance(first, Pretrain)
            assert {spec.start for spec in following} <= {first, None}


def test_shares_cover_the_paper_and_a_pretraining_has_the_same_share_in_all_parts(make_runner):
    runner = make_runner()
    parts = paper.parts_of(runner, paper.Paper(folds=(1, 2, 3, 4, 5), repeats=3))
    shares = [paper.share_out(parts, (number, 3)) for number in (1, 2, 3)]
    for index, part in enumerate(parts):
        found = [names_of(runner, share[index]) for share in shares]
        assert set.union(*found) == names_of(runner, part.specs)
        assert sum(map(len, found)) == len(names_of(runner, part.specs))
    share_of = {}
    for number, share in enumerate(shares):
        for spec in (spec for specs in share for spec in specs):
            start = spec if isinstance(spec, Pretrain) else spec.start
            if start is not None:
                assert share_of.setdefault(runner.ledger.name(start), number) == number
    assert set(share_of.values()) == {0, 1, 2}
    measured = [[spec.fold for spec in share[3] if isinstance(spec, Measure)] for share in shares]
    assert sorted(fold for folds in measured for fold in folds) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all(len(set(folds)) < 5 for folds in measured)  # Table 3 measures its share of the folds


SMALL = replace(COMMAND, repeats=1, folds=(1, 2))
"""Two parts of the paper are enough to see what becomes of a run that cannot be done."""


@pytest.fixture
def two_parts(monkeypatch):
    """Only the temperatures and Table 2 are run."""
    every = paper.parts_of

    def two(runner, command):
        return [part for part in every(runner, command) if part.title in ("Tables 1 and 4", "Table 2")]

    monkeypatch.setattr(paper, "parts_of", two)
    monkeypatch.setattr(paper, "quick", lambda command: command)


def scored(runner) -> set[tuple]:
    rows = [row for row in records.read(runner.ledger.runs) if row["uar"] is not None]
    return {(row["fold"], row["view"], row["method"], row["frozen"], row["temperature"]) for row in rows}


@pytest.mark.slow
def test_a_run_that_another_process_is_doing_is_returned_to(make_runner, monkeypatch, capsys, two_parts):
    """Another process holds a pre-training of fold 1 for a while: everything else is done first, then it."""
    runner = make_runner()
    busy = runner.pretraining(1, temperature=0.1)
    # A lock of this process would not keep it out (fcntl's locks belong to processes): claims are refused.
    claim, free_at = type(runner.ledger).claim, []

    def held(self, specs, *, wait=False):
        if busy in specs and not free_at:
            free_at.append(time.monotonic() + 3)
        if busy in specs and time.monotonic() < free_at[0]:
            return nullcontext([])
        return claim(self, specs, wait=wait)

    monkeypatch.setattr(type(runner.ledger), "claim", held)
    assert run_code(monkeypatch, runner, SMALL) == 0
    assert "returned to later" in capsys.readouterr().out
    # Two folds, two views: supervised, and frozen and tuned at two temperatures.
    assert len(scored(runner)) == 2 * 2 * (1 + 2 * 2)


@pytest.mark.slow
def test_a_part_that_the_corpus_is_too_small_for_is_named_and_the_others_are_done(
    make_runner, monkeypatch, capsys, two_parts
):
    runner, pretrain = make_runner(), session.pretrain

    def too_small(runner, spec):
        if spec.settings.pretraining.temperature == 0.1:
            raise NotPossible("fold too small")
        return pretrain(runner, spec)

    monkeypatch.setattr(session, "pretrain", too_small)
    assert run_code(monkeypatch, runner, SMALL) == 0
    assert "not possible here: Tables 1 and 4: fold too small" in capsys.readouterr().out
    assert {row[-1] for row in scored(runner)} == {None, 0.5}


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_error_at_the_end(make_runner, monkeypatch, capsys, two_parts):
    runner, pretrain = make_runner(), session.pretrain

    def diverges(runner, spec):
        if spec.fold == 1 and spec.settings.pretraining.temperature == 0.1:
            raise FloatingPointError("the loss is nan")
        return pretrain(runner, spec)

    monkeypatch.setattr(session, "pretrain", diverges)
    assert run_code(monkeypatch, runner, SMALL) == 1
    assert "Tables 1 and 4, fold 1: the loss is nan" in capsys.readouterr().err
    assert {row[0] for row in scored(runner) if row[-1] == 0.1} == {2}


def test_any_other_error_ends_the_paper(make_runner, monkeypatch, two_parts):
    def broken(runner, spec):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(session, "pretrain", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        run_code(monkeypatch, make_runner(), SMALL)


def test_nothing_done_at_all_is_an_error(make_runner, monkeypatch, two_parts):
    def too_small(runner, spec):
        raise NotPossible("fold too small")

    monkeypatch.setattr(session, "pretrain", too_small)
    runner = make_runner()
    assert run_code(monkeypatch, runner, SMALL) == 1
