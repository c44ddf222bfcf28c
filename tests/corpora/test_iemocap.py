"""The release of IEMOCAP, with every odd name it is known for (method.md, section 9)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pcl_jax.corpora import folds, iemocap
from pcl_jax.corpora.inspect import inspect
from pcl_jax.corpora.utterance import Corpus, CorpusError

# Dialogue -> turn and code of each utterance.
DIALOGUES = {
    "Ses01F_impro01": {"F000": "neu", "M003": "ang", "M004": "xxx", "F001": "hap"},
    "Ses01M_impro02": {"F000": "sad", "M000": "fru"},
    "Ses02F_script01_1": {"F000": "neu", "M000": "exc", "F001": "ang", "M001": "sad"},
    "Ses03M_impro05a": {"F000": "neu", "M000": "ang"},
    "Ses03M_impro05b": {"F000": "sad", "M000": "hap"},
    "Ses03M_impro08a": {"F000": "oth", "M000": "dis"},
    "Ses03M_impro08b": {"F000": "sur", "M000": "fea"},
    "Ses04F_impro01": {"F000": "neu", "M000": "ang", "F001": "sad", "M001": "exc"},
    "Ses05F_script01_1": {"F000": "neu", "M000": "hap"},
    "Ses05M_script01_1": {"F000": "neu", "M000": "ang"},
    "Ses05M_script01_1b": {"F000": "ang", "M000": "sad"},
}
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


@pytest.fixture
def release(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    """IEMOCAP of 28 utterances with hidden files of macOS, blank dominances and annotators' subfolders."""
    release = tmp_path / "disk" / "IEMOCAP_full_release"
    for dialogue, turns in DIALOGUES.items():
        session = release / f"Session{dialogue[4]}"
        evaluation = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        evaluation.parent.mkdir(parents=True, exist_ok=True)
        lines = [HEADER]
        for turn, code in turns.items():
            wav = write_audio(session / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav")
            wav.with_name(f"._{wav.name}").write_bytes(b"\x00\x05\x16\x07")
            lines.append(f"[6.2901 - 8.2357]\t{dialogue}_{turn}\t{code}\t[2.5000, 2.5000, 2.5000]\n")
            lines.append("C-E2:\tNeutral;\t()\nC-F1:\tAnger;\t()\nA-E3:\tval 3; act 2; dom  ;\t()\n\n")
        evaluation.write_text("".join(lines))
        evaluation.with_name(f"._{evaluation.name}").write_bytes(b"\x00\x05\x16\x07[1 - 2]\tx\tneu\n")
        for votes in ("Categorical", "Attribute", "Self-evaluation"):
            vote = evaluation.parent / votes / f"{dialogue}_e2.txt"
            vote.parent.mkdir(exist_ok=True)
            vote.write_text(f"[6.2901 - 8.2357]\t{dialogue}_F000\tang\t[1, 1, 1]\n")
    return release


def emotions_by_id(corpus: Corpus) -> dict[str, str | None]:
    return {u.id: u.emotion for u in corpus.utterances}


def test_every_odd_name_is_read_and_no_other_file(release: Path) -> None:
    corpus = iemocap.read(release, exclude=(), check_totals=False)
    assert emotions_by_id(corpus) == {
        f"{dialogue}_{turn}": iemocap.EMOTIONS[code]
        for dialogue, turns in DIALOGUES.items()
        for turn, code in turns.items()
    }
    assert corpus.problems == ()
    assert [u.id for u in corpus.utterances] == sorted(u.id for u in corpus.utterances)
    assert {u.duration_s for u in corpus.utterances} == {0.1}


def test_one_repeated_script_is_excluded_by_its_exact_name(release: Path) -> None:
    # "Ses05M_script01_1" is a prefix of "Ses05M_script01_1b", which stays.
    everything, kept = (iemocap.read(release, exclude=()), iemocap.read(release))
    excluded = emotions_by_id(everything).keys() - emotions_by_id(kept).keys()
    assert excluded == {"Ses05M_script01_1_F000", "Ses05M_script01_1_M000"}


def test_the_speaker_is_the_last_letter_not_the_marked_actor(release: Path) -> None:
    by_id = {u.id: u for u in iemocap.read(release).utterances}
    assert by_id["Ses01F_impro01_M003"].speaker == "1M"
    assert by_id["Ses05M_script01_1b_F000"].speaker == "5F"
    assert {u.speaker for u in by_id.values()} == {f"{s}{letter}" for s in range(1, 6) for letter in "FM"}


def test_happy_is_merged_with_excited_and_the_rest_is_out_of_distribution(release: Path) -> None:
    corpus = iemocap.read(release)
    assert corpus.classes == ("neutral", "angry", "sad", "happy")
    happy = {u.emotion for u in corpus.utterances if corpus.label(u) == 3}
    assert happy == {"happy", "excited"}
    assert {u.emotion for u in corpus.subset("out_of_distribution")} == {
        "undecided", "frustrated", "other", "disgusted", "surprised", "fearful"
    }  # fmt: skip


@pytest.mark.parametrize("relative", [".", "..", "../.."])
def test_root_may_be_the_release_or_a_folder_above_it(release: Path, relative: str) -> None:
    assert len(iemocap.read((release / relative).resolve(), exclude=()).utterances) == 28


def test_a_root_without_sessions_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no Session1\.\.5 in .* give the folder IEMOCAP_full_release"):
        iemocap.read(tmp_path)


def test_two_releases_are_not_mixed(release: Path) -> None:
    (release.parent / "copy" / "Session1").mkdir(parents=True)
    with pytest.raises(CorpusError, match="several releases"):
        iemocap.read(release.parent)


def test_every_difference_from_the_release_is_reported(release: Path) -> None:
    totals = {p.item: p.message for p in iemocap.read(release).problems if p.kind == "total"}
    assert "session 1: 6 utterances, the release has 1819" in totals["session 1 utterances"]
    assert "session 5: 2 dialogues, the release has 30" in totals["session 5 dialogues"]
    assert "session 5: 1 angry, the release has 149" in totals["session 5 angry"]
    assert not any(p.fatal for p in iemocap.read(release).problems)
    with_repeat = {p.item: p.message for p in iemocap.read(release, exclude=()).problems}
    assert "session 5: 3 dialogues, the release has 31" in with_repeat["session 5 dialogues"]


def test_the_totals_are_those_of_the_paper() -> None:
    # 10,039 and 5,531 in all; without the repeated script 9,959, 5,499 and 4,460 (paper, section 4.1).
    everything = sum(total for _, total, _ in iemocap.RELEASE.values())
    target = sum(sum(classes.values()) for _, _, classes in iemocap.RELEASE.values())
    _, less, less_of_class = iemocap.REPEATED
    less_target = sum(less_of_class.values())
    assert (everything, target) == (10_039, 5_531)
    assert (everything - less, target - less_target) == (9_959, 5_499)
    assert everything - less - (target - less_target) == 4_460
    assert sum(dialogues for dialogues, _, _ in iemocap.RELEASE.values()) == 151


def test_every_fault_is_listed_and_the_rest_is_read(release: Path, write_audio: Callable[..., Path]) -> None:
    wavs = release / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    (wavs / "Ses01F_impro01_F000.wav").unlink()
    (wavs / "Ses01F_impro01_M003.wav").write_text("this is text")
    (wavs / "Ses01F_impro01_M004.wav").write_bytes(b"")
    write_audio(wavs / "Ses01F_impro01_M099.wav")
    evaluation = release / "Session2" / "dialog" / "EmoEvaluation" / "Ses02F_script01_1.txt"
    evaluation.write_text(evaluation.read_text().replace("exc", "joy"))
    corpus = iemocap.read(release, check_totals=False)
    assert {(p.kind, Path(p.item).stem) for p in corpus.problems} == {
        ("no_audio", "Ses01F_impro01_F000"),
        ("unreadable", "Ses01F_impro01_M003"),
        ("empty", "Ses01F_impro01_M004"),
        ("no_label", "Ses01F_impro01_M099"),
        ("unknown_label", "Ses02F_script01_1_M000"),
    }
    assert all("\n" not in p.message for p in corpus.problems)
    assert {Path(p.item).stem for p in corpus.problems if not p.lost} == {"Ses02F_script01_1_M000"}
    assert corpus.left_out.count == 4
    emotions = emotions_by_id(corpus)
    assert len(emotions) == 26 - 3
    assert emotions["Ses02F_script01_1_M000"] is None


def test_a_second_label_is_a_loss_unless_it_is_the_same(release: Path) -> None:
    evaluation = release / "Session2" / "dialog" / "EmoEvaluation" / "Ses02F_script01_1.txt"
    text = evaluation.read_text()
    for code, lost in (("neu", 0), ("ang", 1)):
        evaluation.write_text(f"{text}[6.2901 - 8.2357]\tSes02F_script01_1_F000\t{code}\t[1, 1, 1]\n")
        (problem,) = iemocap.read(release, check_totals=False).problems
        assert (problem.kind, problem.lost) == ("duplicate_id", lost)


def test_linked_sessions_are_read(release: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in release.iterdir():
        (linked / folder.name).symlink_to(folder)
    expected = [u.id for u in iemocap.read(release).utterances]
    assert [u.id for u in iemocap.read(linked).utterances] == expected


def test_folds_and_inspection(release: Path) -> None:
    corpus = iemocap.read(release)
    for fold in folds.leave_one_session_out(corpus):
        heard = {u.speaker for u in fold.train}
        assert heard.isdisjoint(u.speaker for u in (*fold.validation, *fold.test))
    inspection = inspect(corpus)
    assert inspection.usable
    assert inspection.targets == {"neutral": 5, "angry": 5, "sad": 5, "happy": 5}
    assert inspection.subsets == {"target": 20, "all": 26, "out_of_distribution": 6}
