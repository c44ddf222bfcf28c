"""One of two processes that train as one: `two_processes.py PROCESSES FOLDER [EPOCHS]`, PROCESSES as in the
flag; with EPOCHS, a pre-training that somebody will stop."""

import sys
from pathlib import Path

import jax


def train(study) -> None:
    """A pre-training, fine-tunings from it and beside it, a probe."""
    from pcl_jax.runs import runner as runs
    from pcl_jax.runs.study import Probe, Task

    encoders = runs.pretrain(study, 2)
    tasks = [
        Task(2, "egemaps", start, frozen, 0.5, repeat)
        for start, frozen in ((None, False), (encoders, False), (encoders, True))
        for repeat in (0, 1)
    ]
    tasks.append(Task(2, "mel", None, False, 0.5))
    list(runs.evaluate_all(study, [*tasks, Probe(2, "mel", "probe-pretrained", encoders)]))


def main(processes: str, folder: str, epochs: str = "") -> None:
    from pcl_jax import devices
    from pcl_jax.runs import runner as runs

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_disable_most_optimizations", True)
    devices.join_processes(processes)
    assert (jax.process_count(), jax.device_count()) == (2, 4)

    from tests.runs.conftest import small_study

    study = small_study(Path(folder), devices=None)
    if not epochs:
        train(study)
        return
    try:
        runs.pretrain(study.pretraining_with(epochs=int(epochs), patience=int(epochs)), 2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
