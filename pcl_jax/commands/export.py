"""`pcl export`: a model as ONNX."""

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError


def export(command: flags.Export) -> int:
    """Write an ONNX file for each view of a model."""
    from pcl_jax.inference.model_folder import load_model

    try:
        from pcl_jax.inference.export import export_model
    except ModuleNotFoundError as error:
        raise UsageError(f"pcl export needs {error.name}: pip install 'pcl-jax[onnx]'") from error
    model = load_model(command.model, speech_model=command.speech_model)
    for path in export_model(model, command.out):
        terminal.out.print(str(path), markup=False, highlight=False)
    return 0
