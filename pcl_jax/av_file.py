"""Decoder of containers that libsndfile does not read (m4a, mp4, webm, aac), through PyAV.

Phones and browsers record in them. PyAV is optional: the extra `av` installs it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

SUFFIXES = (".m4a", ".mp4", ".aac", ".webm", ".weba", ".mka", ".3gp")
"""Suffixes of files that this module reads."""
_SIGNATURES = re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|\xff[\xf0\xf1\xf8\xf9]", re.DOTALL)
"""First bytes of MP4 and its kin, of Matroska and WebM, and of raw AAC."""
_MISSING_S = 0.5
"""Seconds by which the samples may fall short of the duration that an MP4 header promises: encoders pad."""


class NotInstalled(RuntimeError):
    """PyAV is needed and not installed."""


class Truncated(ValueError):
    """The file holds less audio than its header promises."""


def is_for_av(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is read by this module.

    >>> is_for_av(b"1234ftypM4A "), is_for_av(b"RIFF....WAVE")
    (True, False)
    """
    return _SIGNATURES.match(head) is not None


class AvFile:
    """The first audio stream of a file, with the part of `soundfile.SoundFile` that decoding needs."""

    def __init__(self, container: Any, stream: Any):
        """Read from an open container."""
        self.samplerate: int = stream.codec_context.sample_rate
        self._container, self._stream = container, stream
        self._frames = self._decoded()
        self._rest = np.zeros((0, 1), np.float32)

    def read(
        self, frames: int, dtype: str = "float32", always_2d: bool = True
    ) -> Float32[np.ndarray, "n channels"]:
        """Decode up to so many frames, `[n, channels]`; fewer at the end of the stream.

        Raises:
            Truncated: The stream ends before its duration.
        """
        parts, count = [self._rest], len(self._rest)
        for block in self._frames:
            parts.append(block)
            count += len(block)
            if count >= frames:
                break
        samples = np.concatenate([part for part in parts if len(part)] or [self._rest])
        self._rest = samples[frames:]
        return samples[:frames]

    def _decoded(self) -> Iterator[np.ndarray]:
        import av

        resampler = av.AudioResampler(format="fltp", rate=self.samplerate)
        count = 0
        for frame in self._container.decode(self._stream):
            for part in resampler.resample(frame):
                block = np.ascontiguousarray(part.to_ndarray().T, np.float32)
                count += len(block)
                yield block
        for part in resampler.resample(None):
            block = np.ascontiguousarray(part.to_ndarray().T, np.float32)
            count += len(block)
            yield block
        promised = self._stream.duration
        if promised is not None and "mp4" in self._container.format.name:
            promised_s, found_s = float(promised * self._stream.time_base), count / self.samplerate
            if promised_s - found_s > _MISSING_S:
                raise Truncated(f"truncated: {promised_s:.2f} s promised, {found_s:.2f} s can be read")


@contextmanager
def opened(path: Path) -> Iterator[AvFile]:
    """Open a file for reading from its beginning.

    Raises:
        NotInstalled: PyAV is not there.
        ValueError: The file holds no audio stream.
        av.FFmpegError: The file cannot be read.
    """
    try:
        import av
        import av.logging as quiet
    except ImportError as error:
        raise NotInstalled('needs PyAV, which the extra "av" installs: pip install "pcl-jax[av]"') from error
    quiet.set_level(quiet.PANIC)
    # Titles need not be text. From version 19 on PyAV takes any, and has no such option.
    any_title: dict[str, Any] = {"metadata_errors": "ignore"}
    if int(av.__version__.split(".")[0]) >= 19:
        any_title = {}
    with av.open(str(path), **any_title) as container:
        if not container.streams.audio:
            raise ValueError("it holds no audio stream")
        yield AvFile(container, container.streams.audio[0])
