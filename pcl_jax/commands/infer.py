"""`pcl predict` and `pcl embed`: a model folder on new recordings."""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pcl_jax.features.export as tables
from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError
from pcl_jax.devices import keep_compiled_programs
from pcl_jax.features.extract import Extraction
from pcl_jax.features.store import StoreError
from pcl_jax.inference import predict as prediction
from pcl_jax.inference.clips import Clips, Window, cut, read_recordings
from pcl_jax.inference.embed import embeddings
from pcl_jax.inference.model import Model
from pcl_jax.inference.model_folder import load_model
from pcl_jax.runs.files import remove_strays, write_atomically

SHORTEST_WINDOW_S = 0.1
"""Seconds of a window that holds a few periods of a voice."""


def predict(command: flags.Predict) -> int:
    """Write or print predictions; return 1 if a recording has none."""
    if command.abstain is not None and not 0 <= command.abstain <= 1:
        raise UsageError(f"--abstain {command.abstain} is no confidence: give 0 to 1")
    model = _open(command)
    if command.abstain is not None and prediction.UNKNOWN in model.classes:
        raise UsageError(f"--abstain: the model has a class {prediction.UNKNOWN!r} already")
    with _work(command.out) as work:
        clips, extraction, faults = _compute(command, model, work, command.speaker)
        found = prediction.predict(model, clips, extraction)
        columns = prediction.table(model, clips, found, command.abstain)
        for remark in (*clips.remarks, *found.remarks):
            terminal.err.print(f"note: {remark}", markup=False, highlight=False)
        _write(command.out, _index(clips, found.rows, command.out) | columns)
    return _finish([*faults, *found.faults], len(found.rows), command.out)


def embed(command: flags.Embed) -> int:
    """Write the vectors of recordings; return 1 if a recording has none."""
    if command.out is None:
        raise UsageError("pcl embed needs --out, NAME.parquet or NAME.csv")
    model = _open(command)
    with _work(command.out) as work:
        clips, extraction, faults = _compute(command, model, work, "")
        numbers = [int(u.id) for u in clips.corpus.utterances if u.id not in extraction.skipped]
        parts = (
            _index(clips, part, command.out) | columns
            for part, columns in embeddings(model, extraction, numbers)
        )
        try:
            tables.write_batches(command.out, parts)
        except OSError as error:
            raise StoreError(f"{command.out}: cannot be written ({error.strerror or error})") from error
        faults = [*faults, *prediction.faults(clips, extraction)[0]]
    return _finish(faults, len(numbers), command.out)


def _open(command: flags.OnModel) -> Model:
    """Check what can be checked at once, then load the model."""
    if not command.paths:
        raise UsageError("give audio files, folders or tables after the model folder")
    for name, value in (("window", command.window), ("hop", command.hop)):
        if value is not None and not SHORTEST_WINDOW_S <= value < 1e6:
            raise UsageError(f"--{name} {value:g}: give seconds, {SHORTEST_WINDOW_S:g} or more")
    if command.hop is not None and command.window is None:
        raise UsageError("--hop needs --window")
    if command.workers is not None and command.workers < 1:
        raise UsageError(f"--workers {command.workers}: give 1 or more")
    if (out := command.out) is not None:
        if out.suffix not in (".csv", ".parquet"):
            raise UsageError(f"--out {out}: give NAME.csv or NAME.parquet")
        if not out.absolute().parent.is_dir() or out.is_dir():
            raise UsageError(f"--out {out}: its folder is not there, or it is a folder itself")
    keep_compiled_programs()
    model = load_model(command.model, speech_model=command.speech_model)
    for remark in model.remarks:
        terminal.err.print(f"note: {remark}", markup=False, highlight=False)
    return model


@contextmanager
def _work(out: Path | None) -> Iterator[Path]:
    """Make the folder of what is computed, beside the output: a command that was killed finds it again."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="pcl-predict-") as folder:
            yield Path(folder)
        return
    remove_strays(out)
    work = out.with_name(f".{out.name}.work")
    work.mkdir(exist_ok=True)
    yield work
    shutil.rmtree(work, ignore_errors=True)


def _compute(
    command: flags.OnModel, model: Model, work: Path, speaker: str
) -> tuple[Clips, Extraction, list[str]]:
    """Find the recordings of a command and compute their vectors."""
    recordings, faults = read_recordings(command.paths, speaker)
    window = None
    if command.window is not None:
        window = Window(command.window, command.hop or command.window)
    clips = cut(recordings, window, work)
    with terminal.bar("predict") as progress:
        extraction = prediction.compute_vectors(
            model, clips, work, workers=command.workers, announce=_announce, progress=progress
        )
    return clips, extraction, [*faults, *clips.faults]


def _announce(plan: Any) -> None:
    if plan.seconds is not None:
        terminal.err.print(terminal.plan_line(plan), highlight=False)


def _index(clips: Clips, numbers: Any, out: Path | None) -> dict[str, Any]:
    files = [clips.recordings[number].name for number in numbers]
    segments = [clips.segment(number) for number in numbers]
    return tables.index(files, segments, times=out is not None and out.suffix == ".parquet")


def _write(out: Path | None, columns: Mapping[str, Any]) -> None:
    text = io.StringIO()
    if out is None or out.suffix == ".csv":
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    if out is None:
        print(text.getvalue(), end="")
        return
    try:
        if out.suffix == ".csv":
            write_atomically(out, text.getvalue().encode(errors="surrogateescape"))
        else:
            tables.write_table(out, columns)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error


def _finish(faults: list[str], count: int, out: Path | None) -> int:
    """List what has no result; return the exit code."""
    for fault in faults:
        terminal.err.print(fault, markup=False, highlight=False)
    if faults:
        terminal.err.print(f"{len(faults)} recordings have no result; the others do", highlight=False)
    if out is not None:
        terminal.out.print(f"{count} rows: {out}", markup=False, highlight=False)
    return 1 if faults else 0
