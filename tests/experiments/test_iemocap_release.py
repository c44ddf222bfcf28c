"""`make paper` on a tree of all 151 dialogues of IEMOCAP: from wav files to a page beside the paper's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax.corpora import iemocap

SCRIPTS = [f"script{play}" for play in ("01_1", "01_2", "01_3", "02_1", "02_2", "03_1", "03_2")]
IMPROVISATIONS = [f"impro{number:02d}" for number in range(1, 9)]
TURNS = ("neu", "ang", "sad", "hap", "fru", "exc")


def dialogues(session: int, letter: str) -> list[str]:
    """Return the dialogues of one marked actor: seven scripts, eight improvisations, exceptions."""
    names = {*SCRIPTS, *IMPROVISATIONS}
    match session, letter:
        case 1, _:
            names -= {"impro08"}
        case 3, "M":
            names = names - {"impro05", "impro08"} | {"impro05a", "impro05b", "impro08a", "impro08b"}
        case 5, "M":
            names |= {"script01_1b"}
    return [f"Ses0{session}{letter}_{name}" for name in sorted(names)]


def write_release(root: Path) -> list[str]:
    """Write half a second of noise, hummed at a pitch of the emotion, per turn; return the dialogues."""
    rng, seconds = np.random.default_rng(0), np.arange(8000) / 16_000
    written = []
    for session in range(1, 6):
        folder = root / "IEMOCAP_full_release" / f"Session{session}"
        (folder / "dialog" / "EmoEvaluation").mkdir(parents=True)
        for dialogue in (*dialogues(session, "F"), *dialogues(session, "M")):
            written.append(dialogue)
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
            wavs = folder / "sentences" / "wav" / dialogue
            wavs.mkdir(parents=True)
            for number, code in enumerate(TURNS):
                id = f"{dialogue}_{'FM'[number % 2]}{number:03d}"
                pitch = (120 + 20 * number) * (1 + 0.05 * rng.normal())
                wave = 0.1 * np.sign(np.sin(2 * np.pi * pitch * seconds)) + 0.01 * rng.normal(size=8000)
                soundfile.write(wavs / f"{id}.wav", wave, 16_000)
                lines.append(f"[0.0000 - 0.5000]\t{id}\t{code}\t[2.5000, 2.5000, 2.5000]\n")
            (folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt").write_text("\n".join(lines))
    return written


@pytest.mark.slow
def test_the_paper_runs_on_a_tree_of_all_dialogues_of_iemocap(tmp_path):
    assert len(write_release(tmp_path / "iemocap")) == 151
    problems = iemocap.read(tmp_path / "iemocap").problems
    assert {problem.kind for problem in problems} == {"total"}
    assert not any("dialogues" in problem.message for problem in problems)  # turns are fewer than there

    places = f"--root {tmp_path}/iemocap --features {tmp_path}/features --runs {tmp_path}/runs"
    size = "--fast --folds 5 --repeats 2 --views mel egemaps"
    command = [
        sys.executable,
        "-m",
        "experiments.paper",
        "--corpus",
        "iemocap",
        *places.split(),
        *size.split(),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "not possible here" not in done.stdout + done.stderr

    rows = [json.loads(line) for line in (tmp_path / "runs" / "records.jsonl").open()]
    assert {row["utterances"] for row in rows} == {150 * len(TURNS)}  # one repeated script is left out
    assert {row["pretrained_on"] for row in rows} >= {"all", "target", "out_of_distribution"}
    (table,) = (tmp_path / "runs" / "report" / "tables").glob("*uar-beside-the-paper*.md")
    supervised = next(line for line in table.read_text().splitlines() if line.startswith("| supervised"))
    cells = [cell.strip() for cell in supervised.split("|")]
    published, mean, difference = cells[cells.index("53.4") :][:3]  # mel's 53.39 in Table 4
    (mel,) = {
        row["uar"]
        for row in rows
        if (row["view"], row["method"], row["fraction"], row["repeat"]) == ("mel", "supervised", 1.0, 0)
    }
    assert mean == f"{100 * mel:.1f}"
    assert float(difference) == pytest.approx(100 * mel - float(published), abs=0.1)
