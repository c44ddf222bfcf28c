"""Compressed streams: what keeps a file from being read whole, found without decoding it.

MP3, FLAC, Ogg, MP4 and Matroska are made of frames, pages or boxes. Decoders read as many of them as a header
counts, or the first of several streams that were joined to one file, and do not say so. The functions here
walk through the whole file instead.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from pcl_jax.containers import TRAILER, id3_length, is_blank

_BLOCK = 2**20


def fault(file: BinaryIO, size: int) -> str | None:
    """Return what keeps a stream from being read whole, None if nothing does or the file is no stream.

    Args:
        file: File open for reading in binary.
        size: Size of the file in bytes.
    """
    start = id3_length(file)
    file.seek(start)
    magic = file.read(8)
    for signature, walk in _WALKS.items():
        if re.match(signature, magic, re.DOTALL):
            try:
                return walk(file, start, size)
            except (struct.error, IndexError, OverflowError):
                return None  # not even a header: the decoder says what is wrong
    return None


def _truncated(end: int, size: int) -> str:
    return f"truncated: its last part ends at byte {end}, the file has {size}"


# MP3


class _Frame(NamedTuple):
    """Header of an MPEG audio frame."""

    length: int
    """Length of the frame in bytes."""
    format: tuple[int, ...]
    """Version, layer, sampling rate and whether it is mono: equal in all frames that a decoder joins."""


_HIGH = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
    (3, 1): tuple(range(32, 449, 32)),
    (3, 2): _HIGH,
    (3, 3): (32, 40, *_HIGH[1:-1]),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): _LOW,
    (2, 3): _LOW,
}
"""Version (3 is MPEG 1, 2 stands for MPEG 2 and 2.5) and layer -> bit rates of the indices 1 to 14, as in
ISO 11172-3 and 13818-3."""


def _mpeg_frame(head: bytes) -> _Frame | None:
    """Parse the header of an MPEG audio frame; None if it is none, or has a free bit rate."""
    if len(head) < 4 or head[0] != 255 or head[1] < 224:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bit_rate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    bits = 1000 * _KBPS[max(version, 2), layer][bit_rate - 1]
    hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        length = 4 * (12 * bits // hz + padding)
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hz + padding
    return _Frame(length, (version, layer, hz, head[3] >> 6 == 3))


def _mp3(file: BinaryIO, start: int, size: int) -> str | None:
    first, counted, frames, place = None, None, 0, start
    counted_end = start
    while place < size:
        file.seek(place)
        frame = _mpeg_frame(file.read(4))
        if frame is None:
            if not (tag := _tag_length(file, place, size)):
                break
            place += tag
            continue
        if first is None:
            first, counted = frame, _frame_count(file, place, frame.length)
            frames -= counted is not None  # the frame of the count holds no sound
        elif frame.format != first.format:
            return f"changes its sampling rate or its number of channels at byte {place}"
        frames, place = frames + 1, place + frame.length
        if frames == counted:
            counted_end = place
    if first is None:
        return None
    if counted is not None and frames > counted + 1:
        return f"has a wrong header: {size - counted_end} bytes follow behind the frames that it counts"
    if place > size:
        return _truncated(place, size)
    if size - place > TRAILER and not is_blank(file, place):
        return f"holds {size - place} bytes behind its last frame, which may be audio"
    return None


def _frame_count(file: BinaryIO, place: int, length: int) -> int | None:
    """Return the number of frames that a Xing header counts, None without one."""
    file.seek(place)
    frame = file.read(length)
    mark = re.search(rb"Xing|Info", frame[:64])
    if mark is None or not frame[mark.end() + 3] & 1:
        return None
    return int.from_bytes(frame[mark.end() + 4 : mark.end() + 8], "big")


def _tag_length(file: BinaryIO, place: int, size: int) -> int:
    """Return the length of the tag at an offset, 0 if there is none."""
    file.seek(place)
    head = file.read(16)
    if head.startswith(b"ID3"):
        return id3_length(file, place)
    if head.startswith(b"TAG"):
        return 227 if head[3:4] == b"+" else 128
    if head.startswith(b"APETAGEX"):  # header and items, or the footer alone
        return 32 + int.from_bytes(head[12:16], "little")
    if head.startswith(b"LYRICSBEGIN"):
        return size - place
    return 0


# FLAC

_STREAMINFO = b"\x00\x00\x00\x22"


def _flac(file: BinaryIO, start: int, size: int) -> str | None:
    if (second := _find(file, start + 4, rb"fLaC[\x00\x80]" + re.escape(_STREAMINFO[1:]))) is not None:
        return (
            f"holds several FLAC streams, of which only the first can be read; the second is at byte {second}"
        )
    file.seek(start + 8)
    info = file.read(34)
    smallest, largest = struct.unpack(">HH", info[:4])
    total = int.from_bytes(info[10:18], "big") & (2**36 - 1)
    longest = int.from_bytes(info[7:10], "big") or 2**18
    tail = max(start + 42, size - 4 * longest - TRAILER)
    file.seek(tail)
    spans = list(_flac_frames(file.read(), smallest if smallest == largest else 0))
    ends = {end for _, end in spans}
    # Bytes that look like a header by chance have no frame that ends where they begin.
    end = max((end for begin, end in spans if begin in ends or begin == 0), default=0)
    if 0 < total < end:
        return f"has a wrong header: it counts {total} samples, the frames hold {end}"
    return None


def _find(file: BinaryIO, start: int, pattern: bytes) -> int | None:
    """Return the offset of the first match of a short pattern from an offset on."""
    file.seek(start)
    before, place = b"", start
    while block := file.read(_BLOCK):
        if match := re.search(pattern, before + block):
            return place - len(before) + match.start()
        before, place = (before + block)[-16:], place + len(block)
    return None


def _flac_frames(content: bytes, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield first sample and end of whatever looks like the header of a FLAC frame (RFC 9639, section 9.1).

    Args:
        content: Part of a file.
        block_size: Samples of each block but the last, where they are equal.
    """
    for match in re.finditer(rb"\xff[\xf8\xf9]", content):
        head = content[match.start() : match.start() + 16]
        code, ones = head[2] >> 4, 8 - (head[4] ^ 255).bit_length() if len(head) == 16 else 9
        if code == 0 or ones in (1, 8, 9):
            continue
        width = max(ones, 1)  # of a number as in UTF-8
        number = head[4] & (127 >> ones)
        for byte in head[5 : 4 + width]:
            number = number << 6 | byte & 63
        place = 4 + width
        if code in (6, 7):
            samples = int.from_bytes(head[place : place + code - 5], "big") + 1
            place += code - 5
        else:
            samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
        place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if _crc8(head[:place]) == head[place]:
            begin = number if head[1] & 1 else number * (block_size or samples)
            yield begin, begin + samples


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (7 if crc & 128 else 0)) & 255
    return crc


# Ogg


def _ogg(file: BinaryIO, start: int, size: int) -> str | None:
    place, latest, granule, last_type = start, 0, 0, 0
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        last_type, granule = head[5], struct.unpack("<q", head[6:14])[0]
        if place > start and last_type & 2:
            return "holds several Ogg streams, of which only the first can be read"
        latest = max(latest, granule)
        place += 27 + head[26] + sum(file.read(head[26]))
    if place > size:
        return _truncated(place, size)
    if not last_type & 4:
        return "truncated: the Ogg stream has no last page"
    if granule < latest:
        return f"has a wrong header: its last page ends at sample {granule}, a page before at {latest}"
    if size - place > TRAILER and not is_blank(file, place):
        return f"holds {size - place} bytes behind its last page, which may be audio"
    return None


# MP4 and Matroska


def _mp4(file: BinaryIO, start: int, size: int) -> str | None:
    place = start
    while place + 8 <= size:
        file.seek(place)
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"ftyp" and place > start:
            return "holds several MP4 files, of which only the first can be read"
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        if length == 0 or not name.isascii() or not name.decode().isprintable():
            return None  # up to the end of the file, or no box
        place += max(length, 8)
    return _truncated(place, size) if place > size else None


_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def _matroska(file: BinaryIO, start: int, size: int) -> str | None:
    place = start
    while place < size:
        file.seek(place)
        head = file.read(12)
        name = head[: 9 - head[0].bit_length()]
        width = 9 - head[len(name)].bit_length()
        if len(name) > 4 or width > 8:
            return None
        length = int.from_bytes(head[len(name) : len(name) + width], "big") & (1 << 7 * width) - 1
        place += len(name) + width
        if length == (1 << 7 * width) - 1:  # unknown, as in a live recording
            if name not in (_SEGMENT, _CLUSTER):
                return None
            continue
        place += length
    return _truncated(place, size) if place > size else None


_WALKS: dict[bytes, Callable[[BinaryIO, int, int], str | None]] = {
    rb"fLaC": _flac,
    rb"OggS": _ogg,
    rb"....ftyp": _mp4,
    rb"\x1a\x45\xdf\xa3": _matroska,
    rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]": _mp3,
}
"""Signature behind tags -> function that walks through the stream. The second byte of an MP3 leaves out
layer 0, which is AAC."""
