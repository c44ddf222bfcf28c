"""Audio files of a folder, and their durations from the headers alone."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile

from pcl_jax.corpora.utterance import CorpusError, Problem

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""Suffixes of audio files; where a recording is there in several formats, the first of them is taken."""

_DATA_CHUNK = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)


def audio_files(root: Path) -> list[Path]:
    """List the audio files below `root` at any depth, sorted.

    Hidden files are ignored: macOS leaves a `._NAME.wav` of no sound beside each file it copies.

    Raises:
        CorpusError: `root` is not a folder.
    """
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder; give the folder that holds the audio as --root")
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def measure(paths: Iterable[Path]) -> tuple[dict[Path, float], list[Problem]]:
    """Return the duration in seconds of every usable file, and a Problem for every other one.

    Only headers are read, so a file may still turn out to be damaged when it is decoded.
    """
    unique = sorted(set(paths))
    # Network folders answer slowly: threads overlap the waiting.
    with ThreadPoolExecutor(max_workers=16) as pool:
        headers = list(pool.map(_header, unique))
    durations = {path: d for path, (d, _) in zip(unique, headers, strict=True) if d is not None}
    return durations, [problem for _, problem in headers if problem is not None]


def _header(path: Path) -> tuple[float | None, Problem | None]:
    def fault(kind: str, what: str) -> Problem:
        return Problem(kind, str(path), f"{path}: {what}")

    if not path.is_file():
        return None, fault("missing", "no such file; restore it or drop its label")
    if path.stat().st_size == 0:
        return None, fault("empty", "0 bytes; copy it again or delete it")
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        reason = str(error).split(": ", 1)[-1].rstrip(".")
        return None, fault("unreadable", f"no audio that libsndfile knows ({reason}); convert it to WAV")
    if info.frames == 0:
        return None, fault("empty", "a header without samples; copy it again or delete it")
    chunk = _DATA_CHUNK.search(info.extra_info)
    truncated = chunk is not None and int(chunk[1]) > int(chunk[2])
    problem = fault("truncated", "shorter than its header says; copy it again") if truncated else None
    return info.frames / info.samplerate, problem
