"""A file of checked frames: `magic | u32 format | (u32 length | u32 crc32 | payload)… | end frame`.

Under its name it is whole or it is not there. The end frame holds the number of frames before it, so that a file cut
at a frame's edge is noticed too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from store.base import fault
from store.base.files import open_atomic

_HEAD = struct.Struct("<8sI")
_FRAME = struct.Struct("<II")
_END = struct.Struct("<4sI")
_END_TAG = b"END."


class FrameError(ValueError):
    """The file is not whole, or not of this kind or format."""


def write_frames(path: Path, magic: bytes, version: int, frames: Iterable[bytes]) -> int:
    """Write a file atomically and durably, for this user alone. Returns its size in bytes. `magic`: 8 bytes."""
    count = 0
    with open_atomic(path, mode=0o600) as file:
        file.write(_HEAD.pack(magic, version))
        for payload in frames:
            _write(file.write, payload)
            count += 1
        _write(file.write, _END.pack(_END_TAG, count))
        size = file.tell()
        fault.point("frames.before_rename")
    fault.point("frames.after_rename")
    return size


def read_frames(path: Path, magic: bytes, version: int) -> Iterator[bytes]:
    """Payloads in order, each checked before it is given out.

    Raises:
        FrameError: at the first thing that is wrong; what came before it must then be thrown away.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or _HEAD.unpack(head) != (magic, version):
            raise FrameError(f"not a {magic.decode()} file of format {version}")
        previous: bytes | None = None
        count = -1
        while True:
            frame = file.read(_FRAME.size)
            if not frame:
                break
            if len(frame) < _FRAME.size:
                raise FrameError("cut off inside a frame's head")
            length, checksum = _FRAME.unpack(frame)
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                raise FrameError(f"frame {count + 1} is cut off or its checksum is wrong")
            if previous is not None:
                yield previous
            previous = payload
            count += 1
        if previous is None or previous != _END.pack(_END_TAG, count):
            raise FrameError("the end is missing")


def _write(write: Callable[[bytes], object], payload: bytes) -> None:
    write(_FRAME.pack(len(payload), zlib.crc32(payload)))
    write(payload)
