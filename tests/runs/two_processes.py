"""One of two processes that train as one: `two_processes.py PROCESSES FOLDER [EPOCHS]`, PROCESSES as in the
flag; with EPOCHS, a pre-training that somebody will stop."""

import sys
from pathlib import Path

import jax


def train(runner) -> None:
    """Pre-train, fine-tune from it and from scratch, fit a probe."""
    from pcl_jax.runs.spec import Finetune, Labels, Probe

    start, settings = runner.pretraining(2), runner.settings
    runner.pretrain(start)
    specs = [
        Finetune(2, "egemaps", source, frozen, Labels(0.5, None, repeat), settings)
        for source, frozen in ((None, False), (start, False), (start, True))
        for repeat in (0, 1)
    ]
    specs.append(Finetune(2, "mel", labels=Labels(0.5), settings=settings))
    list(runner.run_all([*specs, Probe(2, "mel", "probe-pretrained", start, settings=settings)]))


def main(processes: str, folder: str, epochs: str = "") -> None:
    from pcl_jax import devices

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    devices.join_processes(processes)
    assert (jax.process_count(), jax.device_count()) == (2, 4)

    from tests.runs.conftest import small_runner

    runner = small_runner(Path(folder), devices=None)
    if not epochs:
        train(runner)
        return
    try:
        runner.pretrain(runner.pretraining(2, epochs=int(epochs), patience=int(epochs)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
