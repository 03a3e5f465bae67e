"""Locks on files: flocks, which the kernel drops with the last process that holds them, however that dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO, Any, TextIO

POLL_SECONDS = 0.02


def lock(path: Path, *, wait_seconds: float = 0.0) -> TextIO | None:
    """Lock the file, which is created if needed; None if another holds it for longer than `wait_seconds`.

    Returns:
        The open file, for reading and appending. The lock lasts until it is closed: here, and in every process that
        its descriptor was passed to (it is not inherited otherwise).

    Raises:
        OSError: the file cannot be opened.
    """
    file = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(POLL_SECONDS)
        else:
            return file


def is_in_place(file: IO[Any], path: Path) -> bool:
    """Whether an open file is the one that is found at `path`: not deleted, moved or replaced."""
    here = os.fstat(file.fileno())
    try:
        there = path.stat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def is_locked(path: Path) -> bool:
    """Whether anybody holds the lock now. Takes it for an instant, shared; never waits, creates nothing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
