"""Containers of audio files: where their samples end by the header.

libsndfile shortens a truncated file to what is there, without an error. The functions here read the length
that a header promises, so that it can be compared with the file. MP3 and FLAC are compared in decoding.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

_STREAMED = 0x7F000000
"""Smallest length in bytes that stands for "unknown" in a header of 32 bits. Programs that write into a pipe
cannot know the length, and put a number near 2**31 or 2**32 there."""
_TRAILER = 4096
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
        StaleHeader: A WAV or MP3 file holds more samples than its header counts.
    """
    file.seek(0)
    magic = file.read(16)
    for signature, promise in _PROMISES.items():
        if re.match(signature, magic, re.DOTALL):
            try:
                return promise(file, size)
            except StaleHeader:
                raise
            except (struct.error, ValueError, OverflowError, OSError):
                return None  # not even a header: libsndfile says what is wrong
    return None


def ogg_fault(file: BinaryIO, size: int) -> str | None:
    """Return what keeps an Ogg file from being read whole, None if nothing does.

    The last page of a whole stream is marked. A file may hold several streams; libsndfile reads the first.
    """
    file.seek(0)
    serial = file.read(18)[14:]
    file.seek(max(0, size - 2**17))  # a page is shorter than 64 KiB
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    end_of_stream = len(page) > 27 and page[5] & 4
    lengths = page[27 : 27 + page[26]] if end_of_stream else b""
    if not end_of_stream or len(page) < 27 + len(lengths) + sum(lengths):
        return "truncated: the Ogg stream has no last page"
    return None if page[14:18] == serial else "holds several Ogg streams, of which only the first can be read"


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


def _wav(file: BinaryIO, size: int) -> int | None:
    file.seek(0)
    layout = ">4sI" if file.read(4) == b"RIFX" else "<4sI"
    end = None
    for name, offset, length in _chunks(file, layout, start=12):
        if end is not None:
            # Some programs leave out the padding behind an odd length: then the name is one byte off.
            is_chunk = name.decode("latin-1").isprintable() or end % 2
            if size - end > _TRAILER and not is_chunk:
                raise StaleHeader(f"{size - end} bytes follow behind the samples that it counts")
            return end
        if name == b"data":
            end = _end(offset, length, size)
            if length == 0 and size - offset > _TRAILER:
                raise StaleHeader(f"it counts no samples, {size - offset} bytes follow")
            if end is None:
                return None
    return end


def _rf64(file: BinaryIO, size: int) -> int | None:
    long = None
    for name, offset, length in _chunks(file, "<4sI", start=12):
        if name == b"ds64":
            file.seek(offset)
            long = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"data":
            return _end(offset, long if length == 2**32 - 1 and long is not None else length, size)
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


def _mp3(file: BinaryIO, size: int) -> None:
    start = id3_length(file)
    file.seek(start)
    head = file.read(256)
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if place < 0 or len(head) < place + 16:
        return
    flags, *counts = struct.unpack(">III", head[place + 4 : place + 16])
    if flags & 3 != 3:  # counts of frames and of bytes
        return
    end = start + counts[1]
    end += id3_length(file, end)
    file.seek(end)
    sync = file.read(2)
    if size - end > _TRAILER and len(sync) == 2 and sync[0] == 255 and sync[1] >= 224:
        raise StaleHeader(f"{size - end} bytes follow behind the frames that it counts")


_PROMISES: dict[bytes, Callable[[BinaryIO, int], int | None]] = {
    rb"RIF[FX]....WAVE": _wav,
    rb"RF64....WAVE": _rf64,
    rb"riff\x2e\x91\xcf\x11": _w64,
    rb"FORM....(AIF[FC]|8SVX|16SV)": _iff,
    rb"caff": _caf,
    rb"(\.snd|dns\.)": _au,
    rb"NIST_1A\n": _nist,
    rb"Creative Voice ": _voc,
    rb"2BIT": _avr,
    rb"ALawSoundFile": _wve,
    rb"(ID3|\xff[\xe0-\xff])": _mp3,
}
"""Signature at the head of a file -> function that finds the end of its samples."""
