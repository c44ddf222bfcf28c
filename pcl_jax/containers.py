"""Containers of audio files: where their samples end by the header.

libsndfile shortens a truncated file to what is there, without an error, and reads no more than a header
counts. The functions here read the length that a header promises, so that it can be compared with the file.
MP3, FLAC and Ogg have no such length in bytes: see `streams`.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

_STREAMED = 0x7F000000
"""Smallest length in bytes that stands for "unknown" in a header of 32 bits. Programs that write into a pipe
cannot know the length, and put a number near 2**31 or 2**32 there."""
TRAILER = 4096
"""Length in bytes up to which a tail behind the samples is no sign of a wrong header: tags and padding."""


class StaleHeader(ValueError):
    """Header that was written before the samples: more follow than it counts."""


def end_of_samples(file: BinaryIO, size: int) -> int | None:
    """Return the offset in bytes at which the samples end by the header.

    Args:
        file: File open for reading in binary.
        size: Size of the file in bytes.

    Returns:
        The offset, beyond `size` in a truncated file; None if the header does not say.

    Raises:
        StaleHeader: The file holds more samples than its header counts.
    """
    file.seek(0)
    magic = file.read(16)
    for signature, (promise, layout) in _PROMISES.items():
        if re.match(signature, magic, re.DOTALL):
            try:
                end = promise(file, size)
            except StaleHeader:
                raise
            except (struct.error, ValueError, OverflowError, OSError):
                return None  # not even a header: libsndfile says what is wrong
            if end is not None and not _is_tail(file, end, size, layout):
                raise StaleHeader(f"{size - end} bytes follow behind the samples that it counts")
            return end
    return None


def is_blank(file: BinaryIO, start: int) -> bool:
    """Return whether a file holds nothing but zeros from an offset on."""
    file.seek(start)
    while block := file.read(2**16):
        if any(block):
            return False
    return True


def _is_tail(file: BinaryIO, end: int, size: int, layout: str | None) -> bool:
    """Return whether what follows behind the samples is none: chunks, padding, or too little to matter."""
    if size - end <= TRAILER:
        return True
    if layout is None:
        return False  # of some of these formats libsndfile reads whatever follows
    if is_blank(file, end):
        return True
    # Some programs leave out the padding behind an odd length.
    return any(_holds_chunks(file, start, size, layout) for start in {end, end + end % 2})


def _holds_chunks(file: BinaryIO, start: int, size: int, layout: str) -> bool:
    """Return whether a file holds a chain of chunks from an offset on, up to a short tail or padding."""
    end = start
    for name, offset, length in _chunks(file, layout, start=start):
        if not name.isascii() or not name.decode().isprintable() or not 0 <= length <= size - offset:
            break
        end = offset + length
    return end > start and (size - end <= TRAILER or is_blank(file, end))


def id3_length(file: BinaryIO, start: int = 0) -> int:
    """Return the length in bytes of the ID3v2 tags at an offset of a file, 0 without one."""
    length = 0
    while True:
        file.seek(start + length)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return length
        length += 10
        for place, digit in enumerate(reversed(head[6:10])):  # seven bits each
            length += (digit & 127) << 7 * place


def _chunks(file: BinaryIO, layout: str, *, start: int, align: int = 2) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset of the content and length of each chunk."""
    header = struct.Struct(layout)
    offset = start
    while True:
        file.seek(offset)
        head = file.read(header.size)
        if len(head) < header.size:
            return
        name, length = header.unpack(head)
        if not any(name):  # zeros, not a chunk: a file may hold millions of them
            return
        offset += header.size
        yield name, offset, length
        if length < 0:
            return
        offset += -(-length // align) * align


def _end(offset: int, length: int, size: int) -> int | None:
    """Return the end of the samples, None for a length that means "unknown"."""
    present = size - offset
    streamed = present < length and _STREAMED <= length < 2**32
    return None if length <= 0 or length >= 2**62 or streamed else offset + length


def _wav(file: BinaryIO, size: int, layout: str = "<4sI") -> int | None:
    for name, offset, length in _chunks(file, layout, start=12):
        if name == b"data":
            if length == 0 and size - offset > TRAILER:
                raise StaleHeader(f"it counts no samples, {size - offset} bytes follow")
            return _end(offset, length, size)
    return None


def _rifx(file: BinaryIO, size: int) -> int | None:
    return _wav(file, size, ">4sI")


def _rf64(file: BinaryIO, size: int) -> int | None:
    long = None
    for name, offset, length in _chunks(file, "<4sI", start=12):
        if name == b"ds64":
            file.seek(offset)
            long = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"data":
            return _end(offset, length if long is None else long, size)  # as libsndfile does
    return None


def _w64(file: BinaryIO, size: int) -> int | None:
    offset = 40
    while True:
        file.seek(offset)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name.startswith(b"data"):
            return _end(offset, length, size)
        if length < 24:
            return None
        offset += -(-length // 8) * 8


def _iff(file: BinaryIO, size: int) -> int | None:
    for name, offset, length in _chunks(file, ">4sI", start=12):
        if name in (b"SSND", b"BODY"):
            return _end(offset, length, size)
    return None


def _caf(file: BinaryIO, size: int) -> int | None:
    for name, offset, length in _chunks(file, ">4sq", start=8, align=1):
        if name == b"data":
            return _end(offset, length, size)
    return None


def _au(file: BinaryIO, size: int) -> int | None:
    file.seek(0)
    order = ">" if file.read(4) == b".snd" else "<"
    offset, length = struct.unpack(order + "II", file.read(8))
    return _end(offset, length, size)


def _nist(file: BinaryIO, size: int) -> int | None:
    file.seek(0)
    head = file.read(1024).decode("latin-1")
    header = int(head.split("\n")[1])

    def value(name: str, default: int = 0) -> int:
        found = re.search(rf"^{name} -i (\d+)", head, re.MULTILINE)
        return int(found[1]) if found else default

    return _end(header, value("sample_count") * value("channel_count", 1) * value("sample_n_bytes", 1), size)


def _voc(file: BinaryIO, size: int) -> int | None:
    file.seek(20)
    (offset,) = struct.unpack("<H", file.read(2))
    while True:
        file.seek(offset)
        head = file.read(4)
        if not head or head[0] == 0:
            return offset
        if len(head) < 4:
            return size + 1
        offset += 4 + int.from_bytes(head[1:], "little")
        if offset > size:
            return offset


def _avr(file: BinaryIO, size: int) -> int | None:
    file.seek(12)
    stereo, bits = struct.unpack(">HH", file.read(4))
    file.seek(26)
    (frames,) = struct.unpack(">I", file.read(4))
    return _end(128, frames * (2 if stereo else 1) * bits // 8, size)


def _wve(file: BinaryIO, size: int) -> int | None:
    file.seek(18)
    return _end(32, *struct.unpack(">I", file.read(4)), size)


_PROMISES: dict[bytes, tuple[Callable[[BinaryIO, int], int | None], str | None]] = {
    rb"RIFF....WAVE": (_wav, "<4sI"),
    rb"RIFX....WAVE": (_rifx, ">4sI"),
    rb"RF64....WAVE": (_rf64, "<4sI"),
    rb"riff\x2e\x91\xcf\x11": (_w64, None),
    rb"FORM....(AIF[FC]|8SVX|16SV)": (_iff, ">4sI"),
    rb"caff": (_caf, ">4sq"),
    rb"(\.snd|dns\.)": (_au, None),
    rb"NIST_1A\n": (_nist, None),
    rb"Creative Voice ": (_voc, None),
    rb"2BIT": (_avr, None),
    rb"ALawSoundFile": (_wve, None),
}
"""Signature at the head of a file -> function that finds the end of its samples, and the layout of the
chunks that may follow behind them."""
