"""Learning: honest numbers from 2 classes x 1 label on, and the same bytes whatever stopped it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pcl_jax.corpora.utterance import Corpus, CorpusError, Utterance
from pcl_jax.inference.model_folder import ModelError, load_model
from pcl_jax.learn import learning
from pcl_jax.learn.evaluation import Data
from pcl_jax.views.mel import MelView
from tests.learn.conftest import make

VIEWS = {"mel": MelView()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_report_has_what_scripts_read(means, tmp_path):
    report = learning.learn(make(), VIEWS, tmp_path / "model")
    assert {"uar", "low", "high", "n_labelled", "classes", "chosen", "baseline", "curve"} <= set(report)
    assert report["low"] <= report["uar"] <= report["high"]
    assert set(report["baseline"]) == {"uar", "low", "high"}
    assert [set(point) for point in report["curve"]] == [{"n_labelled", "uar", "low", "high"}] * 3
    assert report["uar"] > 0.6
    assert json.loads((tmp_path / "model" / "report.json").read_text()) == report
    assert load_model(tmp_path / "model").classes == ("angry", "neutral", "sad")
    assert sorted(contents(tmp_path / "model")) == [
        "README.md", "config.json", "model.safetensors", "report.html", "report.json", "report.md",
    ]  # fmt: skip


def test_the_card_has_the_header_the_numbers_and_the_limits(means, tmp_path):
    report = learning.learn(make(), VIEWS, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pcl_jax\n")
    for words in ("Art. 5(1)(f)", "annotator's impression", "openSMILE", f"{100 * report['uar']:.1f}"):
        assert words in card


def test_the_page_is_one_file_and_escapes_names(means, tmp_path):
    data = replace(make(), classes=("<script>alert(1)</script>", "b", "c"))
    learning.learn(data, VIEWS, tmp_path / "model", facts={"corpus": "<b>mine</b>"})
    page = (tmp_path / "model" / "report.html").read_text()
    assert "<script>" not in page
    assert "<b>mine" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [0, 1, 7, 24, 30])
def test_a_command_that_was_stopped_goes_on_and_ends_with_the_same_bytes(means, tmp_path, stop_at):
    data = make()
    learning.learn(data, VIEWS, tmp_path / "whole")
    whole = len(means.calls)
    means.calls, means.stop_at = [], stop_at
    with pytest.raises(KeyboardInterrupt):
        learning.learn(data, VIEWS, tmp_path / "stopped" / "whole")
    means.calls, means.stop_at = [], None
    learning.learn(data, VIEWS, tmp_path / "stopped" / "whole")
    assert len(means.calls) == whole - stop_at
    assert contents(tmp_path / "stopped" / "whole") == contents(tmp_path / "whole")


def test_steps_of_other_data_do_not_stand_for_these(means, tmp_path):
    means.stop_at = 20
    with pytest.raises(KeyboardInterrupt):
        learning.learn(make(seed=1), VIEWS, tmp_path / "model")
    means.calls, means.stop_at = [], None
    learning.learn(make(seed=2), VIEWS, tmp_path / "model")
    assert len(means.calls) == 31


def few(labels: list[int], speakers: list[str], classes: int = 2) -> Data:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(labels), 4)).astype(np.float32)
    return Data({"mel": rows}, np.array(labels), speakers, ("a", "b", "c")[:classes])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (few([0, 1], ["x", "y"]), "a has one label"),
        (few([0, 1], ["x", "x"]), "All labels are of one speaker"),
        (few([0, 1, 0, 1, -1], ["x", "x", "y", "y", "z"]), "of two speakers"),
        (few([0, 1, 0, 1, -1], ["x", "x", "y", "y", "z"]), "1 speakers have unlabelled clips only"),
        (few([0, 0, 1, 1, 0, 0], ["x", "x", "y", "y", "z", "z"]), "3 of 3 speakers with two labels or more"),
        (few([0, 1, 0, 1, 2, 2], ["x", "y", "z", "w", "x", "x"], 3), "All labels of c are of speakers"),
    ],
)
def test_what_cannot_be_claimed_is_said(means, tmp_path, data, says):
    report = learning.learn(data, VIEWS, tmp_path / "model")
    assert any(says in line for line in report["cannot_be_claimed"]), report["cannot_be_claimed"]
    assert says.split(",")[0] in (tmp_path / "model" / "README.md").read_text()
    found = load_model(tmp_path / "model").log_probabilities(data.vectors)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_two_classes_with_one_label_each_give_a_model_and_no_number(means, tmp_path):
    report = learning.learn(few([0, 1], ["x", "y"]), VIEWS, tmp_path / "model")
    assert (report["uar"], report["low"], report["high"], report["curve"]) == (None, None, None, [])
    assert "cannot be said" in report["verdict"]


def test_a_folder_with_something_else_is_not_written_to(means, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for place in ("home", "file"):
        with pytest.raises(ModelError, match=f"--out .*{place}"):
            learning.learn(make(), VIEWS, tmp_path / place)


def corpus(count: int, labels: dict[int, str]) -> Corpus:
    utterances = tuple(
        Utterance(f"{i:06d}", Path("x.wav"), 1, f"s{i % 50}", labels.get(i), 1.0) for i in range(count)
    )
    emotions = sorted(set(labels.values()))
    return Corpus("mine", utterances, {name: (name,) for name in emotions})


@pytest.mark.slow
def test_of_100_000_unlabelled_clips_a_stated_number_is_used_and_no_label_is_lost():
    many = corpus(100_000, {5: "a", 70_000: "b"})
    chosen, remark = learning.choose_clips(many, 500, 0)
    assert len(chosen.utterances) == 502
    assert {u.id for u in chosen.utterances} >= {"000005", "070000"}
    assert remark.startswith("500 of 99998 unlabelled clips are used")
    assert learning.choose_clips(many, 500, 0)[0] == chosen


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({}, "labels of 0 classes"),
        ({1: "a", 2: "a"}, "labels of 1 classes"),
        ({1: "file", 2: "b"}, "'file', which is a column"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, says):
    with pytest.raises(CorpusError, match=says):
        learning.choose_clips(corpus(10, labels), 5, 0)


def test_speakers_that_differ_in_case_alone_are_one_person():
    utterances = [
        Utterance(str(i), Path("x"), 1, name, None, 1.0) for i, name in enumerate(("Anna", "anna", "bo"))
    ]
    assert learning.persons(utterances) == ["Anna", "Anna", "bo"]
