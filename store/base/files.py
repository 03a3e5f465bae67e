"""Files that a restart or another process relies on: under their name they are whole and on disk, or as they were.

Steps: 1. written beside, as `.<name>.<pid>.tmp`; 2. synced; 3. renamed; 4. the directory synced. A process that dies
before 3 leaves the temporary file behind: whoever owns the directory calls `sweep` when it starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

DEFAULT_MODE = 0o666
"""Less the umask, as of any new file."""


@contextmanager
def open_atomic(path: Path, *, mode: int = DEFAULT_MODE) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of `path` at the end of the block; not if the block raises.

    Args:
        mode: permissions, from the first byte on. The folder is created if needed.

    Raises:
        OSError: `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of an earlier process with our pid; its permissions may be others
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomic(path: Path, content: bytes | str, *, mode: int = DEFAULT_MODE) -> None:
    """Replace the file `path` by `content` (text as UTF-8). Args, errors: `open_atomic`."""
    with open_atomic(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file `path` by a JSON object. Errors: `open_atomic`."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's value, or None if it is not there."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return value


def sweep(directory: Path, name: str = "*") -> None:
    """Remove what writers that died left in `directory`. For who owns it, before anybody writes there.

    Args:
        name: only of this file.
    """
    for path in directory.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
