"""The command `pcl`: parse, import one command, set the exit code."""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from pcl_jax.audio import one_line
from pcl_jax.commands import flags
from pcl_jax.commands.session import UsageError

FIRST_COMMANDS = """Pairwise-CL: learn emotion from speech when labels are few. Three commands to try:

  pcl pretrain --compare                     the demo, synthetic speech, from audio to a table
  pcl corpus --corpus emodb --root FOLDER    count a corpus, and list what is wrong with it
  pcl pretrain --help                        every flag of a command; `pcl --help` lists the commands
"""
"""Answer to `pcl` alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pcl` with these words, those of the command line by default, to the end of the process."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        print(FIRST_COMMANDS)
        sys.exit(0)
    command = flags.parse(words)
    guarded(lambda: run(command), debug=command.debug)


def run(command: flags.Command) -> int:
    """Do a command; return the exit code. Its module is imported now."""
    match command:
        case flags.Corpus():
            from pcl_jax.commands import corpus

            return corpus.show(command)
        case flags.Extract():
            from pcl_jax.commands import features

            return features.extract(command)
        case flags.Features():
            from pcl_jax.commands import features

            return features.maintain_features(command)
        case flags.Pretrain():
            from pcl_jax.commands import train

            return train.pretrain(command)
        case flags.Finetune():
            from pcl_jax.commands import train

            return train.finetune(command)
        case flags.Learn():
            from pcl_jax.commands import learn

            return learn.learn(command)
        case flags.Predict():
            from pcl_jax.commands import infer

            return infer.predict(command)
        case flags.Embed():
            from pcl_jax.commands import infer

            return infer.embed(command)
        case flags.Suggest():
            from pcl_jax.commands import suggest

            return suggest.suggest(command)
        case flags.Demo():
            from pcl_jax.commands import demo

            return demo.demo(command)
        case flags.Export():
            from pcl_jax.commands import export

            return export.export(command)


def guarded(body: Callable[[], int | None], *, debug: bool) -> None:
    """Run a command to the end of the process, one line for an error.

    Exit code 0: all was done; 2: wrong use; 1: any other error; 130: Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # like Ctrl-C: save, say so, stop
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `pcl ... >&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - to the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to fail
    try:
        code = body() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("pcl: stopped; run the same command to resume", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `pcl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"pcl: {_line(error)}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    sys.exit(code)


def _line(error: Exception) -> str:
    """Return what went wrong; the operating system itself names a number and perhaps a path."""
    if type(error).__module__ != "builtins" or not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    remedy = "make room" if error.errno == errno.ENOSPC else "check the path and its permissions"
    return one_line(f"{error.filename or 'a file or the output'}: {error.strerror}; {remedy} and run again")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
