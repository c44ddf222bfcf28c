"""`pcl export`: a model as ONNX, or as programs of JAX."""

from pathlib import Path

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError


def export(command: flags.Export) -> int:
    """Write a file for each view of a model."""
    from pcl_jax.inference.export import export_model
    from pcl_jax.inference.model_folder import load_model

    model = load_model(command.model, speech_model=command.speech_model)
    try:
        paths = export_model(model, command.out or Path(command.format), command.format)
    except ModuleNotFoundError as error:
        raise UsageError(f"pcl export needs {error.name}: pip install 'pcl-jax[onnx]'") from error
    for path in paths:
        terminal.out.print(str(path), markup=False, highlight=False)
    return 0
