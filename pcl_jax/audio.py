"""Audio file -> mono float32 waveform at 16 kHz, or one line that says what is wrong with the file.

libsndfile reads the first half of a truncated file without an error. So the length in a file's header is
compared with the samples in the file (`containers`), and a compressed stream is walked through (`streams`):
half an utterance must never pass for a whole one. Where the header has no length, or the decoder estimates
it, samples are counted by decoding.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from pcl_jax import av_file, containers, streams
from pcl_jax.av_file import AvFile

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
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000
_REPLACE = "copy the file again from its source, or pass --on-bad-audio skip"
_CONVERT = "convert it to WAV or FLAC, or pass --on-bad-audio skip"
_BLOCK = 2**18
"""Samples decoded at once: the number in a damaged header must not decide how much memory is taken."""
_UNCOUNTED = 2**63 - 1
"""Length that libsndfile gives when it knows none."""
_CHECKED_FORMATS = {
    "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "NIST", "VOC", "AVR", "WVE",
    "FLAC", "OGG", "MP3",
}  # fmt: skip
"""Formats of libsndfile in which a truncated file can be told from a whole one."""
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "git lfs pull",
    b"/annex/objects/": "git annex get .",
}
"""First bytes of a file that stands for another one -> command that fetches that one."""


Decoder: TypeAlias = soundfile.SoundFile | AvFile


class AudioError(ValueError):
    """Fault of one audio file that makes it unusable: file, fault and remedy in one line."""

    def __init__(self, path: Path, kind: Fault, fault: str, remedy: str = _REPLACE):
        """Keep the parts: an error crosses processes by its arguments."""
        super().__init__(path, kind, fault, remedy)
        self.path, self.kind, self.fault, self.remedy = path, kind, fault, remedy

    def __str__(self) -> str:
        """Return file, fault and remedy in one line."""
        return one_line(f"{self.path}: {self.fault}; {self.remedy}")


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


def one_line(text: str) -> str:
    r"""Escape what would break a line or cannot be printed: control characters, bytes that are no text.

    Example:
        >>> print(one_line("a\nb"))
        a\nb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read(
    path: Path, *, start_s: float = 0.0, end_s: float | None = None, sampling_rate: int = SAMPLING_RATE
) -> Waveform:
    """Read a file, or a segment of it, as a mono waveform.

    Accepts every format of libsndfile in which a truncated file can be told from a whole one (WAV, FLAC,
    OGG, MP3, AIFF, CAF, AU, ...), and m4a, mp4, webm and aac where PyAV is installed; any rate and channel
    count. Channels are averaged, then resampled by soxr
    (VHQ); overshoots of decoder and resampler are limited to [-1, 1].

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
    with _opened(path) as (file, frames):
        rate = file.samplerate
        if frames is None:
            waveform = _decode(file)
            start, stop = _segment(path, len(waveform), rate, start_s, end_s)
            waveform = waveform[start:stop]
        else:
            start, stop = _segment(path, frames, rate, start_s, end_s)
            if start:
                file.seek(start)  # pyright: ignore[reportAttributeAccessIssue] - the length is known: no AvFile
            waveform = _decode(file, stop - start)
    if len(waveform) < stop - start:
        raise AudioError(
            path, "truncated", f"truncated: {stop - start} samples promised, {len(waveform)} can be read"
        )
    return prepare(waveform, rate, path, sampling_rate=sampling_rate)


def prepare(
    waveform: Float32[np.ndarray, " decoded"],
    rate: int,
    path: Path = Path("the waveform"),
    *,
    sampling_rate: int = SAMPLING_RATE,
) -> Waveform:
    """Check, resample and limit decoded samples, as `read` does.

    Args:
        waveform: Mono, full scale is 1.
        rate: Its sampling rate, in Hz.
        path: File that errors name.
        sampling_rate: Sampling rate of the result, in Hz.

    Returns:
        float32 `[samples]`, at least 400 samples long, finite, not silent.

    Raises:
        AudioError: Samples are NaN, infinite or far beyond full scale; silence; too few samples.
    """
    if len(waveform) == 0:
        raise AudioError(path, "empty", "holds no samples")
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


def duration_s(path: Path) -> float:
    """Return the duration of a file in seconds, from its header or, where that has no length, by decoding.

    Raises:
        AudioError: The file is missing, unreadable, empty or shorter than its header says. A FLAC, MP3 or Ogg
            file may still turn out to be damaged when it is decoded.
    """
    with _opened(path) as (file, frames):
        count = sum(map(len, _blocks(file))) if frames is None else frames
        if count == 0:
            raise AudioError(path, "empty", "holds no samples")
        return count / file.samplerate


def is_seekable(path: Path) -> bool:
    """Return whether a segment of a file can be read without decoding all before it.

    Raises:
        AudioError: As `duration_s`.
    """
    with _opened(path) as (_, frames):
        return frames is not None


def copy_decoded(path: Path, target: Path) -> None:
    """Write a file's waveform, mono at its own rate, where segments can be read; in bounded memory.

    Args:
        path: File to read.
        target: Whole or not there, also after a kill.

    Raises:
        AudioError: As `read`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    with (
        _opened(path) as (file, _),
        soundfile.SoundFile(temporary, "w", file.samplerate, 1, "FLOAT", format="W64") as copy,
    ):
        for block in _blocks(file):
            copy.write(block)
    temporary.rename(target)


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
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return dict(zip(unique, pool.map(_file_digest, unique), strict=True))


def segment_digest(file_digest: str, start_s: float, end_s: float | None) -> str:
    """Return the SHA-256 of a file's digest, start and end: it changes when the audio of the segment does."""
    segment = f"{file_digest} {float(start_s)!r} {end_s and float(end_s)!r}"
    return hashlib.sha256(segment.encode()).hexdigest()


def _file_digest(path: Path) -> str | AudioError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        return _missing(path, error)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Decoder, int | None]]:
    """Open a file that passes `_check_file`; yield its decoder and length in samples, None where unknown.

    A decoder raises more than `LibsndfileError` (MemoryError, ValueError, RuntimeError, ...): whatever it
    raises becomes an `AudioError`.
    """
    try:
        with ExitStack() as stack:
            tags = _check_file(path)
            if tags is None:
                yield stack.enter_context(av_file.opened(path)), None
                return
            file = stack.enter_context(soundfile.SoundFile(path))
            if file.format not in _CHECKED_FORMATS:
                fault = f"is a {file.format} file: whether it is whole cannot be checked"
                raise AudioError(path, "unreadable", fault, _CONVERT)
            if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
                fault = f"has a sampling rate of {file.samplerate} Hz"
                raise AudioError(path, "unreadable", fault, _CONVERT)
            if file.format == "MP3":
                # Without a Xing header libsndfile estimates the length, and reads no further. From a pipe
                # it takes the header's count, or knows that there is none and reads all there is.
                piped = stack.enter_context(_piped(path, tags))
                if piped.frames == _UNCOUNTED:
                    yield piped, None
                    return
            elif file.frames == _UNCOUNTED:
                yield stack.enter_context(_Stream(path)), None
                return
            yield file, file.frames
    except AudioError:
        raise
    except av_file.NotInstalled as error:
        raise AudioError(path, "unreadable", str(error), _CONVERT) from None
    except av_file.Truncated as error:
        raise AudioError(path, "truncated", str(error)) from None
    except Exception as error:
        raise _unreadable(path, error) from None


class _Stream(soundfile.SoundFile):
    """Decoder that never seeks: soundfile does after each block, and fails at the end of such a FLAC."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _piped(path: Path, start: int) -> Iterator[soundfile.SoundFile]:
    """Open a file as if it came through a pipe, from the offset `start` in bytes."""
    reader, writer = os.pipe()

    def feed() -> None:
        try:
            with open(writer, "wb") as pipe, path.open("rb") as content:
                content.seek(start)
                while block := content.read(2**16):
                    pipe.write(block)
        except OSError:
            pass  # the decoder has closed its end, having read enough

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        with soundfile.SoundFile(reader, closefd=False) as file:
            yield file
    finally:
        os.close(reader)
        thread.join()


def _decode(file: Decoder, samples: int | None = None) -> Waveform:
    """Decode up to `samples` samples, or all that are there, averaged over channels."""
    parts = list(_blocks(file, samples))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _blocks(file: Decoder, samples: int | None = None) -> Iterator[Waveform]:
    """Yield what `_decode` returns, block by block."""
    count = 0
    while samples is None or count < samples:
        wanted = _BLOCK if samples is None else min(_BLOCK, samples - count)
        block = file.read(wanted, dtype="float32", always_2d=True)
        count += len(block)
        yield block.mean(axis=1, dtype=np.float32)
        if len(block) < wanted:
            break


def _missing(path: Path, error: OSError | ValueError) -> AudioError:
    if isinstance(error, FileNotFoundError):
        fault = "does not exist"
    else:
        fault = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    return AudioError(path, "missing", fault, "check --root, or pass --on-bad-audio skip")


def _unreadable(path: Path, error: Exception) -> AudioError:
    if not isinstance(error, soundfile.LibsndfileError):
        reason = str(error) or type(error).__name__
        return AudioError(path, "unreadable", f"is not readable as audio ({reason})")
    if "lost sync" in error.error_string:  # FLAC whose stream ends in the middle of a block
        return AudioError(path, "truncated", "truncated or damaged: the FLAC stream breaks off")
    reason = error.error_string.rstrip(".")
    remedy = _CONVERT if "not recognised" in reason else _REPLACE
    return AudioError(path, "unreadable", f"is not readable as audio (libsndfile: {reason})", remedy)


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


def _check_file(path: Path) -> int | None:
    """Refuse what libsndfile accepts: an empty file, and one that ends before its header says.

    Returns:
        Length of the ID3v2 tags at the head of the file, in bytes; None for a file that PyAV reads.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")
        with path.open("rb") as file:
            _check_content(path, file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            if av_file.is_for_av(file.read(16)):
                return None
            return containers.id3_length(file)
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise _missing(path, error) from None


@lru_cache(maxsize=1024)
def _stream_fault(path: Path, size: int, mtime_ns: int) -> str | None:
    """Walk through a compressed file once, though a thousand utterances are cut out of it."""
    del mtime_ns  # a key of the cache, as `size`
    with path.open("rb") as file:
        return streams.fault(file, size)


def _check_content(path: Path, file: BinaryIO, size: int) -> None:
    if size == 0:
        raise AudioError(path, "empty", "has zero length")
    head = file.read(64)
    for pointer, command in _POINTERS.items():
        if head.startswith(pointer):
            fetch = f"fetch the audio with `{command}`, or pass --on-bad-audio skip"
            raise AudioError(path, "unreadable", "is a pointer to audio that was not fetched", fetch)
    if fault := _stream_fault(path, size, os.fstat(file.fileno()).st_mtime_ns):
        raise AudioError(path, "truncated", fault, _REPLACE if "truncated" in fault else _CONVERT)
    try:
        end = containers.end_of_samples(file, size)
    except containers.StaleHeader as error:
        raise AudioError(path, "truncated", f"has a wrong header: {error}", _CONVERT) from None
    if end is not None and end > size:
        fault = f"truncated: by the header samples end at byte {end}, the file has {size}"
        raise AudioError(path, "truncated", fault)
