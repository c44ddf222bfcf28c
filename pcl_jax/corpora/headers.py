"""Audio files of a folder, and their durations."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pcl_jax import audio, av_file
from pcl_jax.audio import AudioError
from pcl_jax.corpora.utterance import CorpusError, Problem

SUFFIXES = (
    ".wav", ".flac", ".rf64", ".w64", ".aiff", ".aif", ".aifc", ".caf", ".au", ".ogg", ".oga", ".opus",
    ".mp3", *av_file.SUFFIXES,
)  # fmt: skip
"""Suffixes of audio files; where a recording is there in several formats, the first of them is taken."""


def audio_files(root: Path) -> list[Path]:
    """List the audio files below `root` at any depth, sorted.

    Hidden files are ignored: macOS leaves a `._NAME.wav` of no sound beside each file it copies.

    Raises:
        CorpusError: `root` is not a folder, or a folder below it cannot be read.
    """
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder; give the folder that holds the audio as --root")
    return [path for path in walk(root) if path.suffix.lower() in SUFFIXES and path.name[0] != "."]


def walk(root: Path) -> list[Path]:
    """List all files below `root` at any depth, sorted.

    Links to folders are followed. Each folder is entered once, so that a cycle of links ends.

    Raises:
        CorpusError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise CorpusError(f"{error.filename} cannot be read ({error.strerror}); change its permissions")

    entered: set[tuple[int, int]] = set()
    found: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # A folder before the links to it, so that paths do not depend on the order on disk.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        found.extend(Path(folder, name) for name in names)
    return sorted(found)


def measure(paths: Iterable[Path]) -> tuple[dict[Path, float], dict[Path, AudioError]]:
    """Return the duration in seconds of every usable file, and the fault of every other one.

    Only headers are read, where they hold the length. So a file may still turn out to be damaged when it is
    decoded.
    """

    def duration(path: Path) -> float | AudioError:
        try:
            return audio.duration_s(path)
        except AudioError as error:
            return error

    unique = sorted(set(paths))
    # Network folders answer slowly: threads overlap the waiting.
    with ThreadPoolExecutor(max_workers=16) as pool:
        results = dict(zip(unique, pool.map(duration, unique), strict=True))
    faults = {path: result for path, result in results.items() if isinstance(result, AudioError)}
    return {path: result for path, result in results.items() if not isinstance(result, AudioError)}, faults


def audio_problems(faults: Mapping[Path, AudioError], claimed: Iterable[Path]) -> list[Problem]:
    """Turn the faults of files into problems, each with the number of utterances that claim the file."""
    utterances = Counter(claimed)
    return [
        Problem(fault.kind, str(path), str(fault), lost=utterances[path]) for path, fault in faults.items()
    ]
