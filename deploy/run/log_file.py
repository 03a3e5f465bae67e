"""Log files of child processes: bounded in size, and their last lines."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 20 * 1024 * 1024
KEEP = 2
_TAIL_BYTES = 64 * 1024


def rotate(path: Path, *, keep: int = KEEP) -> None:
    """Move PATH to PATH.1, PATH.1 to PATH.2, …; the oldest goes. For a file that nobody has open."""
    if not path.exists() or path.stat().st_size == 0:
        return
    _shift(path, keep)
    path.replace(_numbered(path, 1))


def shorten(path: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> bool:
    """Copy PATH to PATH.1 and empty it when it is above `max_bytes`, while a process goes on appending to it.

    Its writer keeps its descriptor, so the file must have been opened for appending. Lines written between the copy
    and the truncation are lost; all of them where there is no room for a copy, since the bound is what protects the
    disk. Returns whether it did. Never raises: whoever watches processes goes on.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
        with suppress(OSError):
            _shift(path, keep)
            shutil.copyfile(path, _numbered(path, 1))
        os.truncate(path, 0)
    except OSError:  # it has gone, or may not be written
        return False
    return True


def last_lines(path: Path, count: int, *, since_byte: int = 0) -> list[str]:
    """The last `count` lines at or after `since_byte`, decoded leniently; empty if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = since_byte if since_byte <= size else 0
            file.seek(max(begin, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _shift(path: Path, keep: int) -> None:
    for number in range(keep - 1, 0, -1):
        if (old := _numbered(path, number)).exists():
            old.replace(_numbered(path, number + 1))
