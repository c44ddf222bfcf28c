"""Versions of the libraries that make values, as part of a view's `describe()`."""

from importlib.metadata import version


def series(*libraries: str) -> dict[str, str]:
    """Return the release series of libraries: releases of one series give the same values.

    A series is a major version; of versions 0.x, whose minor releases may change anything, a minor one.

    >>> series("numpy")
    {'numpy': '2'}
    """
    parts = {library: version(library).split(".") for library in libraries}
    return {library: ".".join(part[: 2 if part[0] == "0" else 1]) for library, part in parts.items()}


AUDIO_LIBRARIES = ("soundfile", "soxr")
"""Libraries that make every waveform."""
