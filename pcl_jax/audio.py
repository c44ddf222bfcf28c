"""Audio file -> mono float32 waveform at 16 kHz, or one line that says what is wrong with the file.

libsndfile reads the first half of a truncated file without an error. So the length in a file's header is
compared with the samples in the file: half an utterance must never pass for a whole one.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

Waveform: TypeAlias = Float32[np.ndarray, " samples"]
"""Mono, 16 kHz, in [-1, 1]."""

SAMPLING_RATE = 16_000
SHORTEST = 400
"""Length in samples of the shortest usable waveform: one window of the mel view, and the receptive field of
wav2vec 2.0's convolutions."""

PROCESSING = {"sampling_rate": SAMPLING_RATE, "channels": "mean", "resampler": "soxr VHQ", "limit": 1.0}
"""Steps from file to waveform, as part of every view's `describe()`: they change its features."""

Fault = Literal[
    "missing", "unreadable", "empty", "truncated", "segment", "not_finite", "scale", "silent", "too_short"
]

_SEGMENT_TOLERANCE_S = 0.01
_SILENCE = 2.0**-15
_LOUDEST = 8.0
_REPLACE = "copy the file again from its source, or pass --on-bad-audio skip"


class AudioError(ValueError):
    """Fault of one audio file that makes it unusable: file, fault and remedy in one line."""

    def __init__(self, path: Path, kind: Fault, fault: str, remedy: str = _REPLACE):
        """Keep the parts: an error crosses processes by its arguments."""
        super().__init__(path, kind, fault, remedy)
        self.path, self.kind, self.fault, self.remedy = path, kind, fault, remedy

    def __str__(self) -> str:
        """Return file, fault and remedy in one line."""
        return f"{self.path}: {self.fault}; {self.remedy}"


class AudioErrors(ValueError):
    """Faults of all unusable audio files of a corpus, one line each."""

    def __init__(self, errors: Sequence[AudioError]):
        """Keep the errors in the given order."""
        super().__init__(tuple(errors))
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Return a heading and one line per file."""
        lines = [f"{len(self.errors)} audio files cannot be used:", *map(str, self.errors)]
        return "\n  ".join(lines)


def read(
    path: Path, *, start_s: float = 0.0, end_s: float | None = None, sampling_rate: int = SAMPLING_RATE
) -> Waveform:
    """Read a file, or a segment of it, as a mono waveform.

    Accepts any format of libsndfile (WAV, FLAC, OGG, MP3, ...), rate and channel count. Channels are
    averaged, then resampled by soxr (VHQ); overshoots of decoder and resampler are limited to [-1, 1].

    Args:
        path: File to read.
        start_s: Start of the segment, in seconds.
        end_s: End of the segment, in seconds; None for the file's end. An end up to 10 ms behind the file's
            end means the file's end, because tables are rounded.
        sampling_rate: Sampling rate of the result, in Hz.

    Returns:
        float32 `[samples]`, at least 400 samples long, finite, not silent.

    Raises:
        AudioError: The file is missing, unreadable, empty or truncated; the segment lies outside the file;
            samples are NaN, infinite or far beyond full scale; the segment is silent or shorter than
            400 samples.
    """
    _check_file(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            start, stop = _segment(path, file.frames, rate, start_s, end_s)
            if start:
                file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None
    if len(samples) < stop - start:
        raise AudioError(
            path, "truncated", f"truncated: {stop - start} samples promised, {len(samples)} can be read"
        )
    waveform = samples.mean(axis=1, dtype=np.float32)
    _check_samples(path, waveform)
    if rate != sampling_rate:
        waveform = soxr.resample(waveform, rate, sampling_rate, quality="VHQ")
    if len(waveform) < SHORTEST:
        raise AudioError(
            path,
            "too_short",
            f"{len(waveform)} samples at {sampling_rate} Hz, too short: {SHORTEST} are needed",
            "remove it from the corpus, or pass --on-bad-audio skip",
        )
    return np.clip(waveform, -1.0, 1.0)


def clip(waveform: Waveform, duration_s: float, *, pad: bool) -> Float32[np.ndarray, " clipped"]:
    """Trim a waveform to `duration_s`; with `pad`, zero-pad a shorter one on the right to that length."""
    samples = round(duration_s * SAMPLING_RATE)
    waveform = waveform[:samples]
    if pad:
        waveform = np.pad(waveform, (0, samples - len(waveform)))
    return waveform


def require_rate(view: str, sampling_rate: int) -> None:
    """Refuse a view whose configured rate is not the one of `read`: it would shift every frequency.

    Raises:
        ValueError: `sampling_rate` is not 16 kHz.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"{view}: sampling_rate is {sampling_rate} Hz; features are computed at {SAMPLING_RATE} Hz"
        )


def file_digests(paths: Iterable[Path], workers: int | None = None) -> dict[Path, str | AudioError]:
    """Hash each file once, in threads.

    Args:
        paths: Files; repetitions cost nothing (a table may cut a thousand utterances out of one file).
        workers: Threads; all CPUs by default.

    Returns:
        Path -> SHA-256 of the file's bytes in hex, or the error of a file that cannot be opened.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return dict(zip(unique, pool.map(_file_digest, unique), strict=True))


def segment_digest(file_digest: str, start_s: float, end_s: float | None) -> str:
    """Return the SHA-256 of a file's digest, start and end: it changes when the audio of the segment does."""
    segment = f"{file_digest} {float(start_s)!r} {end_s and float(end_s)!r}"
    return hashlib.sha256(segment.encode()).hexdigest()


def _file_digest(path: Path) -> str | AudioError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return _missing(path, error)


def _missing(path: Path, error: OSError) -> AudioError:
    fault = (
        "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
    )
    return AudioError(path, "missing", fault, "check --root, or pass --on-bad-audio skip")


def _unreadable(path: Path, error: soundfile.LibsndfileError) -> AudioError:
    if "lost sync" in error.error_string:  # FLAC whose stream ends in the middle of a block
        return AudioError(path, "truncated", "truncated or damaged: the FLAC stream breaks off")
    return AudioError(
        path, "unreadable", f"is not readable as audio (libsndfile: {error.error_string.rstrip('.')})"
    )


def _segment(path: Path, frames: int, rate: int, start_s: float, end_s: float | None) -> tuple[int, int]:
    if frames == 0:
        raise AudioError(path, "empty", "holds no samples")
    start = round(start_s * rate)
    stop = frames if end_s is None else round(end_s * rate)
    if stop > frames and stop - frames <= _SEGMENT_TOLERANCE_S * rate:
        stop = frames
    if not 0 <= start < stop <= frames:
        end = "the end" if end_s is None else f"{end_s} s"
        raise AudioError(
            path,
            "segment",
            f"segment {start_s} s to {end} lies outside the file's {frames / rate:.3f} s",
            "correct start and end in the table, or pass --on-bad-audio skip",
        )
    return start, stop


def _check_samples(path: Path, waveform: Waveform) -> None:
    finite = np.isfinite(waveform)
    if not finite.all():
        bad = len(waveform) - int(finite.sum())
        raise AudioError(path, "not_finite", f"{bad} of {len(waveform)} samples are NaN or infinite")
    if np.ptp(waveform) < _SILENCE:
        raise AudioError(path, "silent", "is silent from beginning to end")
    peak = float(np.abs(waveform).max())
    if peak > _LOUDEST:
        raise AudioError(
            path,
            "scale",
            f"samples reach {peak:.6g} where full scale is 1",
            "write it as integers or scaled to [-1, 1], or pass --on-bad-audio skip",
        )


def _check_file(path: Path) -> None:
    """Refuse what libsndfile accepts: an empty file, and a WAV or OGG that ends before its header says."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise AudioError(path, "empty", "has zero length")
            magic = file.read(12)
            if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
                _check_wav(path, file, size)
            elif magic[:4] == b"OggS":
                _check_ogg(path, file, size)
    except OSError as error:
        raise _missing(path, error) from None


def _check_wav(path: Path, file: BinaryIO, size: int) -> None:
    while len(header := file.read(8)) == 8:
        chunk, length = struct.unpack("<4sI", header)
        if chunk == b"data":
            present = size - file.tell()
            # Programs that write into a pipe cannot know the length and put a huge one there.
            if present < length < 0x7FFF0000:
                fault = f"truncated: the header promises {length} bytes of samples, {present} are there"
                raise AudioError(path, "truncated", fault)
            return
        file.seek(length + length % 2, os.SEEK_CUR)


def _check_ogg(path: Path, file: BinaryIO, size: int) -> None:
    file.seek(max(0, size - 2**17))  # a page is shorter than 64 KiB
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    end_of_stream = len(page) > 27 and page[5] & 4
    lengths = page[27 : 27 + page[26]] if end_of_stream else b""
    if not end_of_stream or len(page) < 27 + len(lengths) + sum(lengths):
        raise AudioError(path, "truncated", "truncated: the Ogg stream has no last page")
