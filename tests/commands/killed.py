"""A process that runs `pcl learn` and `pcl predict` in children, kills them, and runs them again.

`killed.py TABLE FOLDER SEED` writes what undisturbed children write to `FOLDER/whole` and what the others
leave to `FOLDER/killed`, and prints the number of kills of each command. Every child is a fork, which spares
it the imports.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pcl_jax import cli
from pcl_jax.commands import infer, learn  # noqa: F401 - imported once, for all children
from pcl_jax.training import recipe
from tests.learn.conftest import Means

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Events of Python's audit that change a folder; `open` does so too where it writes."""
MOST_CHANGES = 25
"""Changes of the file system after which a child is killed at the latest."""
MOST_KILLS = 7
"""Kills of a command, after which it is left in peace."""


def run(words: list[str], *, change: int | None = None, after_s: float | None = None) -> int:
    """Run a command in a child; return its exit code, -9 if it was killed.

    Args:
        words: The command line.
        change: Kill the child just before this change of the file system, counted from 1.
        after_s: Kill the child after so many seconds.
    """
    child = os.fork()
    if child == 0:
        _command(words, change)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _command(words: list[str], change: int | None) -> None:
    """Run the command to the end of this process, or to the change before which it is killed."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or event in CHANGES:
            count += 1
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if change is not None:
        sys.addaudithook(hook)
    try:
        cli.main(words)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    os._exit(0)


def main(table: str, folder: str, seed: str) -> None:
    """Kill each command again and again, by turns twice at a change and once at an instant."""
    recipe.recipe = recipe.probe = Means()
    rng = np.random.default_rng(int(seed))
    learned = Path(folder) / "whole" / "model"
    for name in ("learn", "predict"):

        def words(kind: str, name: str = name) -> list[str]:
            place = Path(folder) / kind
            if name == "predict":
                return [name, str(learned), table, "--out", str(place / "x.csv"), "--workers", "1"]
            stored = ["--features", str(place.with_name(f"{kind}-features")), "--json", str(place / "x.json")]
            return [name, table, "--out", str(place / "model"), "--views", "mel", "--workers", "1", *stored]

        began = time.monotonic()
        assert run(words("whole")) == 0
        whole_s = time.monotonic() - began
        kills, code = 0, -signal.SIGKILL
        while code != 0:
            assert code == -signal.SIGKILL, code
            change, after_s = int(rng.integers(1, MOST_CHANGES)), float(rng.uniform(0, whole_s / 2))
            at_instant = kills % 3 == 2
            kill = {"after_s": after_s} if at_instant else {"change": change}
            code = run(words("killed"), **(kill if kills < MOST_KILLS else {}))
            kills += code != 0
        print(name, kills, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
