"""The command: exit codes, one clear line, the interface that scripts rely on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from pcl_jax import cli
from pcl_jax.commands.flags import Pretrain, parse


def pcl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def flags(tmp_path: Path, root: Path) -> list:
    return ["--corpus", "emodb", "--root", root, "--features", tmp_path / "f", "--runs", tmp_path / "r"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pretrain", "--views", "mel"), "needs two views"),
        (("pretrain", "--views", "mel", "colour"), "unknown view 'colour'"),
        (("pretrain", "--views", "mel", "mel"), "twice"),
        (("pretrain", "--corpus", "iemocap"), "--root"),
        (("finetune", "--view", "mel"), "either --pretrained RUN or --supervised"),
        (("finetune", "--view", "mel", "--supervised", "--frozen"), "needs --pretrained"),
        (("finetune", "--view", "mel", "--supervised", "--fraction", "2"), "--fraction 2"),
        (("corpus", "--targets", "a=b", "a=c"), "a"),
        (("pretrain", "--precision", "bfloat16"), "--precision bfloat16 is for accelerators"),
        (("pretrain", "--devices", "1", "--processes", "1/1@localhost:1"), "exclude each other"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, words, says):
    code, _, err = pcl(capsys, *words)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_several_processes_do_not_extract_what_is_missing(capsys, tmp_path, emodb, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    words = [*flags(tmp_path, emodb), "--views", "mel", "egemaps", "--batch", 8]
    code, _, err = pcl(capsys, "pretrain", *words)
    assert code == 2
    assert "features of 40 utterances are missing" in err
    assert "`pcl extract`" in err
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("words", [("--fold", "9"), ("--nonsense",), ("--epochs", "many")])
def test_a_flag_that_cannot_be_is_exit_code_2(capsys, words):
    code, _, err = pcl(capsys, "pretrain", *words)
    assert code == 2
    assert "Traceback" not in err


def test_a_missing_corpus_is_one_line_and_exit_code_1_and_debug_shows_the_traceback(capsys, tmp_path):
    words = ["extract", *flags(tmp_path, tmp_path / "nowhere")]
    code, _, err = pcl(capsys, *words)
    assert code == 1
    assert "nowhere" in err
    assert "Traceback" not in err
    assert "Traceback" in pcl(capsys, *words, "--debug")[2]


def test_corpus_json_has_what_scripts_read(capsys, tmp_path, emodb):
    code, out, _ = pcl(capsys, "corpus", "--json", "--corpus", "emodb", "--root", emodb)
    assert code == 0
    counts = json.loads(out)
    assert counts["utterances"] == 40
    assert counts["targets"] == {"neutral": 10, "angry": 10, "sad": 10, "happy": 10}
    assert counts["per_session"]["1"]["angry"] == 2
    assert counts["subsets"] == {"target": 40, "all": 40, "out_of_distribution": 0}
    assert counts["problems"] == []


@pytest.mark.slow
def test_all_bad_audio_is_listed_nothing_is_lost_and_skip_goes_on(capsys, tmp_path, emodb):
    soundfile.write(emodb / "03a01Wa.wav", np.zeros(8000), 16_000)
    soundfile.write(emodb / "08a01Na.wav", np.full(300, 0.1), 16_000)
    words = ["extract", "--workers", 1, *flags(tmp_path, emodb)]
    code, _, err = pcl(capsys, *words)
    assert code == 1
    assert "03a01Wa.wav" in err
    assert "08a01Na.wav" in err
    assert "Traceback" not in err
    code, _, err = pcl(capsys, *words, "--on-bad-audio", "skip")
    assert code == 0
    assert "skipped 03a01Wa" in err


@pytest.mark.slow
def test_three_views_and_a_stand_in_that_no_table_or_record_hides(capsys, tmp_path, emodb):
    common = [*flags(tmp_path, emodb), "--workers", 1, "--speech-model", "untrained", "--fold", 2]
    small = ["--epochs", 1, "--batch", 8]
    code, out, err = pcl(capsys, "pretrain", *common, *small)
    assert (code, err) == (0, "")
    assert "extracted 40 utterances" in out
    run = next(line for line in out.splitlines() if line.startswith("run: ")).removeprefix("run: ")
    assert "mel+egemaps+wav2vec2" in run
    code, out, _ = pcl(capsys, "finetune", *common, *small, "--view", "wav2vec2", "--pretrained", run)
    assert code == 0
    assert "untrained stand-in" in out
    rows = [json.loads(line) for line in (tmp_path / "r" / "records.jsonl").read_text().splitlines()]
    assert [row["title"] for row in rows] == [
        "mel, egemaps, wav2vec2 (untrained stand-in)", "wav2vec2 (untrained stand-in)",
    ]  # fmt: skip
    assert rows[1]["views"] == ["mel", "egemaps", "wav2vec2"]
    code, _, err = pcl(capsys, "extract", *common[:-2], "--views", "whisper", "--speech-model", "nowhere")
    assert code == 1
    assert "nowhere" in err


@pytest.mark.slow
def test_features_are_listed_verified_mended_taken_out_and_brought_back(capsys, tmp_path, emodb):
    common = [*flags(tmp_path, emodb), "--workers", 1]
    assert pcl(capsys, "extract", *common, "--views", "egemaps", "mel", "--shard", "1/2")[0] == 0
    code, out, _ = pcl(capsys, "extract", *common, "--views", "egemaps", "mel")
    assert "to extract: 20 utterances" in out
    code, out, _ = pcl(capsys, "features", "list", *common)
    assert code == 0
    assert "float32 [t, 64]" in out
    (part, _) = sorted((tmp_path / "f" / "emodb").glob("egemaps-*/part-*.arrow"))
    part.write_bytes(part.read_bytes()[:-50])
    code, out, _ = pcl(capsys, "features", "verify", *common)
    assert code == 1
    assert f"{part}: truncated or damaged" in out
    assert pcl(capsys, "features", "verify", "--repair", *common)[0] == 0
    assert "to extract: 20 utterances" in pcl(capsys, "extract", *common, "--views", "egemaps", "mel")[1]
    assert pcl(capsys, "features", "verify", *common)[0] == 0
    soundfile.write(emodb / "03a01Wa.wav", 0.1 * np.ones(8000) * np.sin(np.arange(8000)), 16_000)
    code, out, _ = pcl(capsys, "features", "verify", *common)
    assert code == 1
    assert "the audio of '03a01Wa' has changed since" in out
    assert "to extract: 1 utterances" in pcl(capsys, "extract", *common, "--views", "egemaps", "mel")[1]

    table = tmp_path / "functionals.csv"
    code, out, _ = pcl(capsys, "features", "export", *common, "--views", "egemaps", "--to", table)
    assert code == 0
    small = ["--epochs", 1, "--batch", 8]
    code, out, _ = pcl(capsys, "pretrain", *common, "--views", "mel", f"mine={table}", *small)
    assert code == 0
    run = next(line for line in out.splitlines() if line.startswith("run: ")).removeprefix("run: ")
    words = ["finetune", *common, "--view", f"mine={table}", "--pretrained", run, *small]
    assert pcl(capsys, *words)[0] == 0
    code, out, _ = pcl(capsys, "features", "gc", *common)
    assert "removed nothing" in out
    assert len(list((tmp_path / "f" / "emodb").iterdir())) == 3
    code, out, _ = pcl(capsys, "features", "gc", "--yes", *common)
    assert sorted(folder.name.split("-")[0] for folder in (tmp_path / "f" / "emodb").iterdir()) == [
        "mel",
        "mine",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("features", "export", "--views", "mel"), "needs one view and a target"),
        (("extract", "--shard", "3"), "3/8 is the third of eight"),
        (("extract", "--views", "mine=nowhere.csv"), "there is no table nowhere.csv"),
        (("extract", "--views", "mel=nowhere.csv"), "'mel' is a view already"),
        (("features", "verify"), "f is no folder, so there are no features: check --features"),
        (("features", "gc"), "r is no folder, so it is not known which features are needed"),
    ],
)
def test_features_wrong_use(capsys, words, says, tmp_path, emodb):
    code, _, err = pcl(capsys, *words, *flags(tmp_path, emodb))
    assert code in (1, 2)
    assert says in err
    assert err.count("\n") == 1


def test_from_audio_to_records(capsys, tmp_path, emodb):
    """The documented commands on a corpus of tones, to the end."""
    common = [*flags(tmp_path, emodb), "--workers", 1, "--views", "mel", "egemaps"]
    small = ["--epochs", 2, "--batch", 8]
    code, out, err = pcl(capsys, "pretrain", *common, "--fold", 2, *small, "--temperature", 0.25)
    assert (code, err) == (0, "")
    run = next(line for line in out.splitlines() if line.startswith("run: ")).removeprefix("run: ")
    how = [("--supervised",), ("--pretrained", run, "--frozen"), ("--pretrained", run)]
    for words in how:
        code, out, _ = pcl(
            capsys,
            "finetune",
            *common[:-3],
            "--fold",
            2,
            "--view",
            "egemaps",
            *words,
            "--fraction",
            0.5,
            *small,
        )
        assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "r" / "records.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["pretraining", "supervised", "pairwise-cl", "pairwise-cl"]
    assert [row["temperature"] for row in rows] == [0.25, None, 0.25, 0.25]
    assert [row["frozen"] for row in rows] == [False, False, True, False]
    needed = {
        "experiment", "corpus", "fold", "view", "method", "frozen", "fraction", "n_labelled", "repeat",
        "temperature", "seed", "uar", "wa", "recall", "epochs", "seconds", "versions", "config_digest",
        "device", "params_digest",
    }  # fmt: skip
    assert all(needed <= set(row) for row in rows)
    assert all(row["n_labelled"] == 12 for row in rows[1:])
    code, _, err = pcl(capsys, "finetune", *common[:-3], "--fold", 3, "--view", "mel", "--pretrained", run)
    assert code == 1
    assert "fold 2, not 3" in err


def test_authors_preset_changes_defaults_and_flags_still_win():
    command = parse(["pretrain", "--preset", "authors", "--encoders.init", "flax"])
    assert isinstance(command, Pretrain)
    assert (command.view_settings.mel.log, command.normalise, command.encoders.spectral_pool) == (
        False,
        "none",
        "flatten",
    )
    assert command.encoders.init == "flax"
    assert command.pretraining.plateau_factor == 0.5


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, pcl_jax; print(sorted({'jax', 'numpy', 'flax', 'librosa'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_terminal_that_knows_ascii_alone_is_no_reason_to_fail():
    code = "from pcl_jax import cli; cli.guarded(lambda: print('\\u03c4 = 0.5'), debug=False)"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "? = 0.5\n")


def test_a_closed_output_and_a_full_disk_are_no_riddles(monkeypatch, capsys):
    for error, says in (
        (
            OSError(28, "No space left on device"),
            "pcl: a file or the output: No space left on device; make room",
        ),
        (FileExistsError(17, "File exists", "runs"), "pcl: runs: File exists; check the path"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.guarded(lambda error=error: (_ for _ in ()).throw(error), debug=False)
        assert stop.value.code == 1
        assert capsys.readouterr().err.startswith(says)
    for name in ("stdout", "stderr"):  # `pcl ... >&- 2>&-`
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as stop:
        cli.guarded(lambda: print("hello"), debug=False)
    assert stop.value.code == 0


def test_pcl_alone_shows_three_commands_that_can_be_typed(capsys):
    code, out, err = pcl(capsys)
    assert (code, err) == (0, "")
    commands = [line.split("  ")[1] for line in out.splitlines() if line.startswith("  pcl ")]
    assert len(commands) == 3
    for command in commands:
        if not command.endswith("--help"):
            parse(command.split()[1:])


@pytest.mark.parametrize("command", ["pretrain", "extract"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--corpus", "emodb"), "needs --root"),
        (("--corpus", "emodb", "--root", "nowhere"), "nowhere does not exist"),
        (("--corpus", "emodb", "--root", "."), "holds no audio"),
        (("--views", "mel", "colour"), "unknown view 'colour'"),
    ],
)
def test_a_fault_that_needs_no_model_is_found_before_a_model_is_looked_for(
    capsys, monkeypatch, tmp_path, command, words, says
):
    from pcl_jax.views import catalogue

    def ask(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "catalogue", ask)
    code, _, err = pcl(capsys, command, *words, "--speech-model", "somebody/somewhere")
    assert code in (1, 2)
    assert says in err
    assert not (tmp_path / "demo").exists()


FIRST_LINE = """
import sys
from pcl_jax.commands import flags, session, terminal, train
heavy = {"jax", "flax", "optax", "orbax", "scipy", "sklearn", "pyarrow", "librosa"} & set(sys.modules)
print(sorted(heavy))
"""


def test_the_first_line_waits_for_no_heavy_import():
    done = subprocess.run([sys.executable, "-c", FIRST_LINE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_pretraining_says_its_plan_first_and_compiles_few_programs(capsys, tmp_path, emodb):
    """At most 6 to pre-train on three views, and 12 to compare; more would be batches of further sizes."""
    jax.clear_caches()
    common = [*flags(tmp_path, emodb), "--workers", 1, "--speech-model", "untrained", "--devices", 1]
    small = ["--epochs", 2, "--batch", 8, "--finetuning.epochs", 2]
    code, out, err = pcl(capsys, "pretrain", *common, *small, "--compare", "--debug")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "emodb: 40 utterances, 0.01 h of speech."
    assert lines[1].startswith("plan: 1. extract features where they are missing: mel, egemaps, wav2vec2; ")
    assert "2. pre-train on 24 utterances, 2 epochs or fewer, 20 s at most; 3. compare 27 " in lines[1]
    assert lines[2].startswith("to extract: 40 utterances")
    counts = {
        work: int(line.split(": ")[1].split()[0])
        for work in ("pre-training", "the comparison")
        for line in lines
        if line.startswith(f"programs of {work}: ")
    }
    assert 0 < counts["pre-training"] <= 6
    assert 0 < counts["the comparison"] <= 12
    assert any(line.startswith("Without training networks, on the same ") for line in lines)
