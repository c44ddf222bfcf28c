"""`pcl learn` from a table to a model that predicts, and every table that cannot be meant."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from pcl_jax import cli
from pcl_jax.features import store
from pcl_jax.inference.model_folder import load_model
from pcl_jax.training import recipe
from pcl_jax.views.mel import MelView
from tests.inference.conftest import tone
from tests.learn.conftest import Means


def pcl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Means:
    """A quick fit in place of the recipe."""
    fit = Means()
    monkeypatch.setattr(recipe, "recipe", fit)
    monkeypatch.setattr(recipe, "probe", fit)
    return fit


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty-four clips of four speakers, two of three with a label."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    rows = [("file", "speaker", "emotion")]
    for number in range(24):
        soundfile.write(tmp_path / "clips" / f"{number:02d}.wav", tone(number), 16_000)
        label = ("excited", "calm")[number % 2] if number % 3 else ""
        rows.append((f"clips/{number:02d}.wav", f"s{number // 6}", label))
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "mine.csv"


LEARN = ("--views", "mel", "--workers", 1)


def test_from_a_table_to_predictions_that_equal_those_of_the_evaluation(capsys, table, means, tmp_path):
    code, out, err = pcl(
        capsys, "learn", table, "--out", tmp_path / "model", *LEARN, "--json", tmp_path / "x.json"
    )
    assert (code, err) == (0, "")
    assert "2. cross-validate within the 16 labels, 30 fits or fewer, " in " ".join(out.split())
    assert "3. refit on all labels and 8 unlabelled clips, " in " ".join(out.split())
    report = json.loads((tmp_path / "x.json").read_text())
    assert (report["n_labelled"], report["n_unlabelled"], report["classes"]) == (16, 8, ["calm", "excited"])
    assert f"{100 * report['uar']:.1f}" in out
    assert pcl(capsys, "predict", tmp_path / "model", table, "--out", tmp_path / "p.csv")[0] == 0
    found = pd.read_csv(tmp_path / "p.csv")
    assert list(found.file) == [f"clips/{number:02d}.wav" for number in range(24)]
    (folder,) = (tmp_path / "features").glob("mine-*/mel-vectors-*")
    stored = store.open(folder)
    vectors = {"mel": np.stack([stored[file] for file in found.file])}
    expected = np.exp(load_model(tmp_path / "model").log_probabilities(vectors))
    np.testing.assert_allclose(found[["calm", "excited"]], expected, atol=1e-5)


def test_features_that_are_there_are_used_and_the_same_command_ends_with_the_same_bytes(
    capsys,
    table,
    means,
    tmp_path,
    monkeypatch,
):
    pcl(capsys, "extract", "--corpus", "table", "--root", table, "--views", "mel", "--workers", 1)
    monkeypatch.setattr(MelView, "features", lambda *_: pytest.fail("computed again"))
    assert pcl(capsys, "learn", table, "--out", tmp_path / "model", *LEARN)[0] == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert pcl(capsys, "learn", table, "--out", tmp_path / "model", *LEARN)[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == files


def test_a_folder_and_labels_are_a_table_whose_other_files_are_unlabelled(capsys, table, means, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [row for row in csv.reader(table.open()) if row[2]]
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows(
            [(Path(name).name if i else name, s, e) for i, (name, s, e) in enumerate(rows)]
        )
    words = ("learn", "--audio", tmp_path / "clips", "--labels", labels, "--out", tmp_path / "m")
    code, _, err = pcl(capsys, *words, *LEARN, "--json", tmp_path / "x.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "x.json").read_text())
    assert (report["n_labelled"], report["n_unlabelled"]) == (16, 8)
    assert any("8 unlabelled files is not known" in line for line in report["cannot_be_claimed"])
    assert (tmp_path / "m" / "config.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mine.csv",), "needs --out"),
        (("--out", "m"), "give a table"),
        (("mine.csv", "--out", "m", "--corpus", "emodb", "--root", "x"), "not both"),
        (("--out", "m", "--audio", "clips"), "needs --labels TABLE"),
        (("mine.csv", "--out", "m", "--most-unlabelled", -1), "--most-unlabelled -1"),
        (("mine.csv", "--out", "m", "--views", "colour"), "unknown view"),
        (("mine.csv", "--out", "m", "--json", "nowhere/x.json"), "its folder is not there"),
        (("mine.csv", "--out", "m", "--views", "mel", "--targets", "calm"), "one class"),
        (("mine.csv", "--out", "mine.csv"), "is a file"),
        (("nowhere.csv", "--out", "m"), "nowhere.csv"),
    ],
)
def test_wrong_use_is_one_line(capsys, table, words, says):
    code, _, err = pcl(capsys, "learn", *words)
    assert code in (1, 2)
    assert says in err
    assert err.count("\n") == 1
    assert not Path("m").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file,speaker,emotion\n",
        "file,speaker\nclips/00.wav,a\n",
        "file,speaker,emotion\nclips/00.wav,a,x\nclips/01.wav,a,x\n",
        "file,speaker,emotion\nclips/00.wav,a,start\nclips/01.wav,b,end\n",
        "file,speaker,emotion\nnowhere.wav,a,x\nclips/01.wav,b,y\n",
        "file,speaker,emotion\nclips/00.wav,a,x\nclips/00.wav,b,y\n",
        "file,emotion\nclips/00.wav,x\n",
        "file,speaker,emotion\nclips/00.wav,a,x,too,many\n",
    ],
)
def test_a_table_that_teaches_nothing_is_one_line(capsys, table, text):
    table.write_text(text)
    code, _, err = pcl(capsys, "learn", table, "--out", "m", *LEARN)
    assert code == 1
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_any_bytes_as_a_table_are_one_line(capsys, table):
    rng = np.random.default_rng(0)
    for number in range(20):
        path = table.with_name(f"t{number}{('.csv', '.parquet')[number % 2]}")
        path.write_bytes(rng.bytes(int(rng.integers(300))))
        code, _, err = pcl(capsys, "learn", path, "--out", "m", *LEARN)
        assert code == 1
        assert len(err.splitlines()) == 1


def test_ids_that_are_paths_stay_ids(capsys, table, means, tmp_path):
    rows = list(csv.reader(table.open()))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [(*rows[0], "id"), *((*row, f"../../{i}") for i, row in enumerate(rows[1:]))]
        )
    before = set(tmp_path.parent.iterdir())
    assert pcl(capsys, "learn", table, "--out", "m", *LEARN)[0] == 0
    assert set(tmp_path.parent.iterdir()) == before


def test_a_silent_clip_stops_the_command_or_is_left_out(capsys, table, means, tmp_path):
    soundfile.write(tmp_path / "clips" / "01.wav", np.zeros(9000), 16_000)
    code, _, err = pcl(capsys, "learn", table, "--out", "m", *LEARN)
    assert code == 1
    assert "01.wav" in err
    code, _, err = pcl(
        capsys, "learn", table, "--out", "m", *LEARN, "--on-bad-audio", "skip", "--json", "x.json"
    )
    assert code == 0
    assert json.loads(Path("x.json").read_text())["n_labelled"] == 15
