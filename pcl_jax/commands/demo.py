"""`pcl demo`: a page on this machine that predicts recordings and takes labels."""

import sys
from typing import TYPE_CHECKING

import numpy as np

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError
from pcl_jax.corpora.spelling import tidy
from pcl_jax.inference import labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcl_jax.audio import Waveform
    from pcl_jax.demo.analysis import Predict
    from pcl_jax.inference.model import Model


def demo(command: flags.Demo) -> int:
    """Serve the page until the process is stopped."""
    if command.model is None and command.label is None:
        raise UsageError("pcl demo needs a model folder, or --label with the table of pcl suggest")
    if not 0 <= command.port < 2**16:
        raise UsageError(f"--port {command.port}: give 1 to 65535, or 0 for a free one")
    for name, value in (("window", command.window), ("hop", command.hop)):
        if not 0.1 <= value <= 60:
            raise UsageError(f"--{name} {value:g}: give 0.1 to 60 seconds")
    try:
        from pcl_jax.demo import server
        from pcl_jax.demo.analysis import Windows
    except ModuleNotFoundError as error:
        raise UsageError(f"pcl demo needs {error.name}: pip install 'pcl-jax[demo]'") from error
    if command.label is not None:
        labels.require_writable(command.label)
    model = _load(command)
    classes = dict.fromkeys([*(model.classes if model else ()), *map(tidy, command.classes)])
    content = server.Demo(
        tuple(classes),
        predictor(model) if model else None,
        command.label,
        model.remarks if model else (),
        Windows(command.window, command.hop),
    )
    try:
        server.serve(content, command.port, _announce)
    except OSError as error:
        raise UsageError(f"--port {command.port} cannot be used ({error.strerror}); give another") from error
    except KeyboardInterrupt:  # the server ends in no other way, and nothing is left undone
        terminal.out.print("stopped")
    return 0


def predictor(model: "Model") -> "Predict":
    """Return the function that gives the probabilities of waveforms, as `pcl predict` does."""

    def predict(waveforms: "Sequence[Waveform]") -> np.ndarray:
        return np.exp(model.log_probabilities(model.vectors(waveforms)))

    return predict


def _load(command: flags.Demo) -> "Model | None":
    if command.model is None:
        return None
    from pcl_jax.devices import keep_compiled_programs
    from pcl_jax.inference.model_folder import load_model

    keep_compiled_programs()
    return load_model(command.model, speech_model=command.speech_model)


def _announce(address: str) -> None:
    terminal.out.print(f"page: {address}", markup=False, highlight=False, soft_wrap=True)
    terminal.out.print("It answers on this machine only. Stop with Ctrl-C.")
    sys.stdout.flush()
