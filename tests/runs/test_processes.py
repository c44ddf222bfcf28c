"""Two processes of two devices train as one process of four, and write everything once."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcl_jax import devices
from pcl_jax.runs import checkpoint, records
from tests.runs.conftest import small_runner
from tests.runs.two_processes import train


def two(folder: Path, *more: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    own = ("JAX_NUM", "JAX_PLATFORMS", "XLA_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.runs.two_processes", f"{number}/2@{address}", folder, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for number in (1, 2)
    ]


def wait_for(processes: list[subprocess.Popen], code: int) -> None:
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code, code], "\n".join(outputs)


@pytest.mark.slow
def test_two_processes_are_one_and_only_the_first_writes(tmp_path):
    small_runner(tmp_path)  # its features
    wait_for(two(tmp_path), 0)
    one = small_runner(tmp_path / "one", devices=4)
    train(one)

    apart, alone = (list(records.read(folder)) for folder in (tmp_path / "runs", one.ledger.runs))
    assert [row["run"] for row in apart] == [row["run"] for row in alone]
    for row, expected in zip(apart, alone, strict=True):
        assert row["best_epoch"] == expected["best_epoch"]
        assert row["confusion"] == expected["confusion"]
    (run,) = [row["run"] for row in alone if row["method"] == "pretraining"]
    mine, theirs = (epochs(folder / run) for folder in (tmp_path / "runs", one.ledger.runs))
    assert mine[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)
    # Sums in another order: Adam's first steps, g / |g|, carry that from tiny gradients into the parameters.
    for one_epoch, other in zip(mine, theirs, strict=True):
        assert one_epoch["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-3)
    encoders, _ = checkpoint.load_encoder(tmp_path / "runs" / run, "mel")
    assert encoders["Conv_0"]["kernel"].shape == (7, 8, 4)


@pytest.mark.slow
def test_sigterm_to_one_saves_and_stops_both_after_the_same_epoch(tmp_path):
    small_runner(tmp_path)
    processes = two(tmp_path, "100000")
    while not (saved := list(tmp_path.glob("runs/*/*/epochs.jsonl"))):
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.1)
    before = len(epochs(saved[0].parent))
    processes[1].terminate()
    wait_for(processes, 130)
    after = len(epochs(saved[0].parent))
    states = [int(state.name) for state in (saved[0].parent / "states").iterdir()]
    assert before < after == max(states)


def epochs(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("processes", ["2", "3/2@localhost:1", "0/2@localhost:1", "1/2@localhost", "x"])
def test_processes_that_cannot_be_meant_are_refused_in_one_line(processes):
    with pytest.raises(ValueError, match="neither auto nor like 2/4@HOST:PORT"):
        devices.join_processes(processes)


@pytest.mark.slow
def test_auto_without_a_launcher_says_what_to_do():
    launchers = ("SLURM_", "OMPI_", "PMIX_", "MPI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    command = "from pcl_jax.cli import main; main(['pretrain', '--processes', 'auto'])"
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "finds neither SLURM nor Open MPI" in done.stderr
    assert "Traceback" not in done.stderr
