"""Everything wrong with a folder is reported, also in JSON."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import rich.console

from pcl_jax.corpora.inspect import inspect, render
from pcl_jax.corpora.utterance import Corpus, Problem

MakeCorpus = Callable[[dict[str, int]], Corpus]
WriteAudio = Callable[..., Path]
COUNTS = {"neutral": 4, "angry": 3, "sad": 2, "happy": 1, "bored": 5}


def printed(corpus: Corpus) -> str:
    console = rich.console.Console(file=io.StringIO(), width=160)
    console.print(render(inspect(corpus)))
    return console.file.getvalue()


def test_the_counts_add_up_in_json(abstract_corpus: MakeCorpus) -> None:
    report = json.loads(json.dumps(inspect(abstract_corpus(COUNTS)).to_json()))
    assert report["usable"] is True
    assert report["utterances"] == 75
    assert report["targets"] == {"neutral": 20, "angry": 15, "sad": 10, "happy": 5}
    assert report["per_session"]["3"] == {"neutral": 4, "angry": 3, "sad": 2, "happy": 1}
    assert report["emotions"]["3"]["bored"] == 5
    assert report["subsets"] == {"target": 50, "all": 75, "out_of_distribution": 25}
    assert report["hours"] == 75 / 3600
    assert report["duration_s"]["0.5"] == 1.0
    assert report["problems"] == []


def test_the_same_audio_twice_is_found_by_its_bytes(
    abstract_corpus: MakeCorpus, tmp_path: Path, write_audio: WriteAudio
) -> None:
    corpus = abstract_corpus(dict.fromkeys(COUNTS, 1))
    utterances = [
        replace(u, path=write_audio(tmp_path / f"{i}.wav", seed=min(i, 20)))
        for i, u in enumerate(corpus.utterances)
    ]
    # Two segments of one file are not duplicates.
    utterances[1] = replace(utterances[1], path=utterances[0].path, start_s=0.05)
    problems = inspect(replace(corpus, utterances=tuple(utterances))).problems
    assert {(p.kind, Path(p.item).name) for p in problems} == {
        ("duplicate", f"{i}.wav") for i in (21, 22, 23, 24)
    }
    assert all(str(tmp_path / "20.wav") in p.message for p in problems)


def test_a_corpus_without_five_sessions_is_unusable(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    inspection = inspect(replace(corpus, utterances=tuple(u for u in corpus.utterances if u.session < 5)))
    assert not inspection.usable
    assert [p.kind for p in inspection.problems if p.fatal] == ["no_session"]


def test_an_empty_corpus_is_unusable_and_can_still_be_shown(abstract_corpus: MakeCorpus) -> None:
    empty = replace(abstract_corpus(COUNTS), utterances=())
    assert not inspect(empty).usable
    json.dumps(inspect(empty).to_json())
    assert "NOT USABLE" in printed(empty)


def test_a_class_that_some_fold_cannot_learn_is_fatal_and_one_it_cannot_test_is_not(
    abstract_corpus: MakeCorpus,
) -> None:
    corpus = abstract_corpus(COUNTS)

    def happy_only_in(*sessions: int) -> Corpus:
        kept = (u for u in corpus.utterances if u.emotion != "happy" or u.session in sessions)
        return replace(corpus, utterances=tuple(kept))

    assert not inspect(happy_only_in(1)).usable
    # Fold 1 tests session 1 and validates on 2; fold 5 the other way round: they train without.
    assert {p.item for p in inspect(happy_only_in(1, 2)).problems if p.fatal} == {"fold 1 happy"}
    usable = inspect(happy_only_in(1, 3))
    assert usable.usable
    assert {p.item for p in usable.problems} == {"fold 2 happy", "fold 4 happy", "fold 5 happy"}


def test_a_corpus_without_labels_serves_pretraining(abstract_corpus: MakeCorpus) -> None:
    corpus = abstract_corpus(COUNTS)
    unlabelled = tuple(replace(u, emotion=None) for u in corpus.utterances)
    inspection = inspect(replace(corpus, utterances=unlabelled, targets={}))
    assert inspection.usable
    assert [p.kind for p in inspection.problems] == ["no_targets"]


def test_many_faults_of_a_kind_are_counted_and_the_first_are_shown(abstract_corpus: MakeCorpus) -> None:
    faults = tuple(Problem("missing", f"{i}.wav", f"[u{i}.wav]: gone") for i in range(1000))
    text = printed(replace(abstract_corpus(COUNTS), problems=faults, synthetic=True))
    assert "missing (1,000):" in text
    losses = tuple(replace(fault, lost=2) for fault in faults)
    assert "missing (1,000, 2,000 utterances left out):" in printed(
        replace(abstract_corpus(COUNTS), problems=losses)
    )
    assert "[u4.wav]: gone" in text  # and brackets are no markup
    assert "... and 995 more" in text
    assert "SYNTHETIC" in text
    assert len(text.splitlines()) < 40
