"""The frame that all experiments share: a new experiment is one file and one line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

import experiments
from experiments import report
from experiments.experiment import Experiment, all_experiments, load, run
from pcl_jax.commands import flags, session
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.views.egemaps import EgemapsView

SWEEP = '''
"""Learning rates of fine-tuning."""

from dataclasses import dataclass, replace
from itertools import product

from experiments.experiment import Exhibit, Experiment, main
from pcl_jax.commands import flags
from pcl_jax.runs.spec import Finetune
from pcl_jax.runs.summary import group_rows, score_texts, scores_of
from pcl_jax.runs.tables import Table


@dataclass(frozen=True)
class LearningRates(flags.Experiment):
    """Fine-tuning at several learning rates."""

    rates: tuple[float, ...] = (1e-3, 1e-2)


def plan(runner, command):
    for rate in command.rates:
        finetuning = replace(runner.settings.finetuning, learning_rate=rate)
        settings = replace(runner.settings, finetuning=finetuning)
        for fold, view in product(command.folds, runner.views):
            yield Finetune(fold, view, settings=settings)


def select(rows, choice):
    return [row for row in rows if row["method"] == "supervised" and choice.holds(row)]


def table(rows):
    cells = group_rows(rows, lambda row: (row["title"], row["settings"]["finetuning"]["learning_rate"]))
    texts = score_texts({key: scores_of(cell) for key, cell in cells.items()})
    lines = [(view, f"{rate:g}", text) for (view, rate), text in sorted(texts.items())]
    return Table("Learning rates", ("view", "rate", "UAR"), lines)


EXPERIMENT = Experiment(
    name="learning_rates",
    description=__doc__,
    flags=LearningRates,
    plan=plan,
    exhibits=(Exhibit("Beyond the paper", select, table, optional=True),),
    varies=("finetuning.learning_rate",),
)

if __name__ == "__main__":
    main(EXPERIMENT)
'''
"""The one file of a new experiment."""


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Experiment:
    """Add a module to the package, and its line to the list."""
    (tmp_path / "learning_rates.py").write_text(SWEEP)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*experiments.EXPERIMENTS, "learning_rates"))
    yield load("learning_rates")
    sys.modules.pop("experiments.learning_rates")


@pytest.mark.slow
def test_an_experiment_that_sweeps_a_setting_is_one_file_and_one_line(
    sweep, make_runner, monkeypatch, capsys, tmp_path
):
    runner = make_runner()
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: runner)
    command = sweep.flags(folds=(1,), rates=(1e-3, 0.1), runs=runner.ledger.runs)
    assert run(sweep, command) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.startswith(("| mel", "| egemaps"))]
    assert [(line[1], line[3]) for line in lines] == [
        ("egemaps", "0.001"), ("egemaps", "0.1"), ("mel", "0.001"), ("mel", "0.1"),
    ]  # fmt: skip
    page = report.write(runner.ledger.runs)
    assert not page.errors
    (path,) = (runner.ledger.runs / "report" / "tables").glob("*learning-rates.md")
    shown = [line for line in path.read_text().splitlines() if line.startswith(("| mel", "| egemaps"))]
    assert [line.split() for line in shown] == lines
    text = page.path.read_text()
    assert text.count("<h2 ") == 2  # no other table may mix the rates
    assert "finetuning.learning_rate = 0.1" in text


def test_every_experiment_has_its_modules_name_and_an_item():
    found = list(all_experiments())
    assert tuple(experiment.name for experiment in found) == experiments.EXPERIMENTS
    assert all(exhibit.item for experiment in found for exhibit in experiment.exhibits)


def test_table_only_runs_nothing_and_prints_the_table(make_runner, monkeypatch, capsys):
    runner = make_runner()
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: runner)
    command = load("freezing").flags(folds=(1,), table_only=True)
    assert run(load("freezing"), command) == 0
    assert "Pairwise-CL, tuned, UAR" in capsys.readouterr().out
    assert not (runner.ledger.runs / "records.jsonl").exists()


def test_table_only_extracts_no_features(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    utterance = Utterance("a", tmp_path / "a.wav", 1, "speaker", "calm", 0.1)
    corpus = Corpus("one", (utterance,), {"calm": ("calm",)})
    command = flags.Experiment(features=tmp_path / "features", table_only=True)
    with pytest.raises(session.UsageError, match=r"features of 1 utterances are missing.*--table-only"):
        session.extract_features(command, {"egemaps": EgemapsView()}, corpus)
    assert not list((tmp_path / "features").rglob("*.arrow"))


@pytest.mark.slow
def test_a_measurement_is_made_once_and_shared_out_with_its_fold(make_runner, monkeypatch, capsys):
    runner = make_runner()
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: runner)
    alignment, folds = load("alignment"), (1, 2)

    def measured() -> list[tuple]:
        specs = list(alignment.plan(runner, alignment.flags(folds=folds)))
        rows = runner.ledger.finished_records(specs)
        return [(row["fold"], row["title"]) for row in rows if row["method"] == "alignment"]

    run(alignment, alignment.flags(folds=folds, shard="2/2"))
    assert measured() == [(2, "mel | egemaps"), (2, "egemaps | mel")]
    run(alignment, alignment.flags(folds=folds))
    before = (runner.ledger.runs / "records.jsonl").read_text()
    assert len(measured()) == 4
    run(alignment, alignment.flags(folds=folds))
    assert (runner.ledger.runs / "records.jsonl").read_text() == before
    specs = alignment.plan(runner, alignment.flags(folds=(1,)))
    found = {row["title"]: row for row in runner.ledger.finished_records(specs)}
    row = found["mel | egemaps"]
    assert row["temperature"] == runner.settings.pretraining.temperature
    assert row["pretrained_on"] == "all"
    assert row["settings"]["pretraining"]["epochs"] == runner.settings.pretraining.epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"), [("--also ravdess=x", "--extra-corpora"), ("--resident 0", "--max-feature-memory")]
)
def test_old_flag_names_are_refused_with_the_new_one(words, message):
    command = [sys.executable, "-m", "experiments.pretraining_data", *words.split()]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"is called {message} now" in done.stderr


@pytest.mark.slow
def test_a_module_that_runs_is_not_imported_twice():
    """`python -m` warns of a module that its package has imported already."""
    command = [sys.executable, "-W", "error", "-m", "experiments.temperature", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert "usage: python -m experiments.temperature" in done.stdout


def test_an_installed_package_holds_the_experiments_and_the_page():
    """Outside a checkout too, `python -m experiments.report` finds its module and its template."""
    root = Path(__file__).parents[2]
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "experiments*" in setuptools["packages"]["find"]["include"]
    assert "report.html.jinja" in setuptools["package-data"]["experiments"]
    assert (root / "experiments" / "report.html.jinja").is_file()
