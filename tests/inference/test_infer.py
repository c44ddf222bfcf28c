"""`pcl predict` and `pcl embed` as scripts call them: columns, exit codes, kills, warnings."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from pcl_jax import cli
from pcl_jax.inference import predict as prediction
from pcl_jax.inference.model_folder import load_model, save_model
from tests.inference.conftest import CLASSES, tone, train

COLUMNS = ["file", "start", "end", "prediction", "confidence", *CLASSES]


def pcl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    place = tmp_path / "clips"
    place.mkdir()
    for number in range(8):
        soundfile.write(place / f"{number}.wav", tone(number), 16_000)
    return place


def test_a_table_of_predictions_has_the_columns_that_scripts_read(capsys, clips, folder, tmp_path):
    out = tmp_path / "x.csv"
    (tmp_path / ".x.csv-0123abcd").write_text("file,sta")  # a kill in the middle of the write left it
    assert pcl(capsys, "predict", folder, clips, "--out", out)[0] == 0
    text = out.read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    table = pd.read_csv(out)
    assert list(table.file) == [str(clips / f"{number}.wav") for number in range(8)]
    assert list(table.prediction) == [CLASSES[number % 2] for number in range(8)]
    assert (pd.to_timedelta(table.end) == pd.Timedelta(seconds=0.75)).all()
    probabilities = table[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_array_equal(table.confidence, probabilities.max(axis=1))
    assert not list(tmp_path.glob(".x.csv*"))


def test_the_command_predicts_what_python_predicts_whatever_the_batch(
    capsys, clips, folder, tmp_path, monkeypatch
):
    model = load_model(folder)
    expected = [list(model.predict(tone(number), 16_000).values()) for number in range(8)]
    for size in (1, 3, 256):
        monkeypatch.setattr(prediction, "BATCH", size)
        monkeypatch.setattr(prediction.batches, "__defaults__", (size,))
        out = tmp_path / f"{size}.csv"
        pcl(capsys, "predict", folder, clips, "--out", out)
        found = pd.read_csv(out)[list(CLASSES)].to_numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)  # the files have 16 bits a sample
        np.testing.assert_allclose(found, pd.read_csv(tmp_path / "1.csv")[list(CLASSES)], atol=1e-6)


def test_bad_files_are_listed_and_everything_else_is_done(capsys, clips, folder, tmp_path):
    (clips / "junk.wav").write_bytes(b"junk")
    soundfile.write(clips / "silent.wav", np.zeros(16_000), 16_000)
    out = tmp_path / "x.csv"
    code, _, err = pcl(capsys, "predict", folder, clips, tmp_path / "nowhere.wav", "--out", out)
    assert code == 1
    assert [line for line in err.splitlines() if "Traceback" in line] == []
    for name in ("junk.wav", "silent.wav", "nowhere.wav"):
        assert sum(name in line for line in err.splitlines()) == 1
    assert "3 recordings have no result" in err
    assert len(pd.read_csv(out)) == 8


def test_windows_have_times_and_a_silent_one_is_said(capsys, folder, tmp_path):
    wave = np.concatenate([tone(0, 32_000), np.zeros(32_000, np.float32), tone(1, 40_000)])
    soundfile.write(tmp_path / "long.wav", wave, 16_000)
    out = tmp_path / "x.parquet"
    code, _, err = pcl(
        capsys, "predict", folder, tmp_path / "long.wav", "--window", 1, "--hop", 1, "--out", out
    )
    assert code == 0
    assert "2 of 7 windows have no prediction: is silent" in err
    table = pd.read_parquet(out)
    assert list(table.columns) == COLUMNS
    assert table.start.dt.total_seconds().tolist() == [0, 1, 4, 5, 5.5]
    assert table.end.dt.total_seconds().tolist() == [1, 2, 5, 6, 6.5]
    assert table.prediction.tolist() == ["high", "high", "low", "low", "low"]


def test_an_hour_of_silence_is_one_line(capsys, folder, tmp_path):
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(8_000 * 60))
    code, _, err = pcl(
        capsys,
        "predict",
        folder,
        tmp_path / "hour.flac",
        "--window",
        60,
        "--hop",
        60,
        "--out",
        tmp_path / "x.csv",
    )
    assert code == 1
    (line,) = [line for line in err.splitlines() if "hour.flac" in line]
    assert line.endswith("is silent from beginning to end; copy the file again from its source (60 windows)")
    assert (tmp_path / "x.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_below_a_confidence_the_prediction_is_unknown(capsys, clips, folder, tmp_path):
    pcl(capsys, "predict", folder, clips, "--out", tmp_path / "x.csv", "--abstain", 1)
    table = pd.read_csv(tmp_path / "x.csv")
    assert set(table.prediction) == {"unknown"}
    assert (table.confidence > 0.5).all()


def test_without_out_the_table_is_printed(capsys, clips, folder):
    code, out, _ = pcl(capsys, "predict", folder, clips / "0.wav")
    assert code == 0
    assert out.splitlines()[-2] == ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--window", 0), "--window 0"),
        (("--window", "nan"), "--window nan"),
        (("--hop", 1), "--hop needs --window"),
        (("--abstain", 2), "--abstain 2"),
        (("--out", "x.txt"), "NAME.csv or NAME.parquet"),
        (("--out", "nowhere/x.csv"), "its folder is not there"),
        (("--workers", 0), "--workers 0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, clips, folder, words, says):
    code, _, err = pcl(capsys, "predict", folder, clips, *words)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_no_model_and_no_column_of_speakers_are_one_line(capsys, clips, folder, tmp_path):
    code, _, err = pcl(capsys, "predict", tmp_path, clips)
    assert (code, err.count("\n")) == (1, 1)
    assert "holds no model" in err
    (tmp_path / "t.csv").write_text("file,x\nclips/0.wav,1\n")
    code, _, err = pcl(capsys, "predict", folder, tmp_path / "t.csv", "--speaker", "who")
    assert code == 1
    assert "no column 'who'" in err


def test_a_command_that_is_stopped_anywhere_goes_on_and_ends_with_the_same_bytes(
    capsys, clips, folder, tmp_path, monkeypatch
):
    out = tmp_path / "x.csv"
    words = ("predict", folder, clips, "--out", out)
    pcl(capsys, *words)
    whole = out.read_bytes()
    out.unlink()
    compute = prediction.extract
    for stop_at in (1, 3, 3):

        def stopping(*args, stop_at=stop_at, **options):
            def progress(done, total, label):
                if done == stop_at:
                    raise KeyboardInterrupt

            return compute(*args, **options | {"progress": progress})

        monkeypatch.setattr(prediction, "extract", stopping)
        assert pcl(capsys, *words)[0] == 130
        assert not out.exists()
    monkeypatch.setattr(prediction, "extract", compute)
    assert pcl(capsys, *words)[0] == 0
    assert out.read_bytes() == whole
    assert not list(tmp_path.glob(".x.csv*"))


def test_one_class_for_nearly_all_and_strange_voices_are_remarked(capsys, folder, tmp_path):
    place = tmp_path / "many"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        soundfile.write(place / f"{number}.wav", 0.5 * rng.uniform(-1, 1, 12_000), 16_000)
    _, _, err = pcl(capsys, "predict", folder, place, "--out", tmp_path / "x.csv")
    assert "100% of the clips lie farther from the training data" in err
    assert "100% of the predictions are" in err


def test_familiar_clips_of_both_classes_are_not_remarked(capsys, folder, tmp_path):
    place = tmp_path / "many"
    place.mkdir()
    for number in range(24):
        soundfile.write(place / f"{number}.wav", tone(number), 16_000)
    assert pcl(capsys, "predict", folder, place, "--out", tmp_path / "x.csv")[2] == ""


def test_speakers_are_named_in_a_column_or_the_fallback_is_said(capsys, clips, tmp_path):
    for number in (8, 9):
        soundfile.write(clips / f"{number}.wav", tone(number), 16_000)
    model = train()
    trained = replace(model.trained, normalise="speaker", fallback=model.trained)
    save_model(tmp_path / "model", replace(model, trained=trained), "card")
    rows = [("file", "who"), *((f"clips/{i}.wav", "anna" if i < 8 else "bo") for i in range(10))]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    tables = {}
    for name, words in {"with": ("--speaker", "who"), "without": ()}.items():
        out = tmp_path / f"{name}.csv"
        code, _, err = pcl(capsys, "predict", tmp_path / "model", tmp_path / "t.csv", "--out", out, *words)
        assert code == 0
        count = {"with": 2, "without": 10}[name]
        assert f"{count} of 10 clips have no known speaker with 8 clips or more" in err
        tables[name] = pd.read_csv(out)
    assert (tables["with"].confidence[:8] != tables["without"].confidence[:8]).any()
    np.testing.assert_allclose(tables["with"].confidence[8:], tables["without"].confidence[8:], atol=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_vectors_are_read_by_pandas_audformat_and_scikit_learn(capsys, clips, folder, tmp_path, suffix):
    import audformat
    from sklearn.linear_model import LogisticRegression

    out = tmp_path / f"z{suffix}"
    assert pcl(capsys, "embed", folder, clips, "--out", out)[0] == 0
    table = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out)
    for name in ("start", "end"):
        table[name] = pd.to_timedelta(table[name])
    indexed = table.set_index(["file", "start", "end"])
    assert audformat.is_segmented_index(indexed.index)
    used = list(load_model(folder).trained.readouts)
    assert len(indexed.columns) == sum({"mel": 128, "egemaps": 88}[view] for view in used)
    truth = [CLASSES[number % 2] for number in range(8)]
    assert LogisticRegression(max_iter=500).fit(indexed, truth).score(indexed, truth) == 1.0


def test_embed_needs_a_table_to_write(capsys, clips, folder):
    code, _, err = pcl(capsys, "embed", folder, clips)
    assert (code, err.count("\n")) == (2, 1)


def test_any_bytes_as_audio_are_one_line_each(capsys, folder, tmp_path):
    place = tmp_path / "fuzz"
    place.mkdir()
    rng = np.random.default_rng(0)
    heads = (
        b"",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"fLaC",
        b"OggS",
        b"ID3",
        b"\0\0\0\x18ftypmp42",
        b"\x1a\x45\xdf\xa3",
    )
    for number, head in enumerate(itertools.islice(itertools.cycle(heads), 28)):
        (place / f"{number:02d}.wav").write_bytes(head + rng.bytes(int(rng.integers(4000))))
    code, _, err = pcl(capsys, "predict", folder, place, "--out", tmp_path / "x.csv")
    assert code == 1
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-1] == "28 recordings have no result; the others do"
    assert len(lines) == 29
