"""Sorting more than memory holds: sorted runs on disk, merged. Stable, whatever the size of a run."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from store.base.errors import StateError

Item = tuple[int, bytes]
"""What it is sorted by (64 bits, signed), and what it is."""
MAX_RUNS = 64
"""So many files are open at once; more runs are merged into one."""
ITEM_OVERHEAD_BYTES = 150
_HEAD = struct.Struct("<qI")
_BUFFER_BYTES = 128 << 10


def external_sort(
    items: Iterable[Item], *, memory_bytes: int, directory: Path | None = None, max_runs: int = MAX_RUNS
) -> Iterator[Item]:
    """The items by their keys; equal ones in the order they came.

    Runs are files without a name: the system removes them when the iterator or the process ends, however it ends.

    Args:
        memory_bytes: of items in memory, with ITEM_OVERHEAD_BYTES for each.
        directory: where runs are written; None = the system's for temporary files (TMPDIR).

    Raises:
        StateError: `temporary_files`: they cannot be written.
    """
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        held: list[Item] = []
        size = 0
        for item in items:
            held.append(item)
            size += len(item[1]) + ITEM_OVERHEAD_BYTES
            if size >= memory_bytes:
                if len(runs) == max_runs:
                    merged = _spill(stack, heapq.merge(*map(_read, runs), key=_key), directory)
                    for run in runs:
                        run.close()
                    runs = [merged]
                held.sort(key=_key)
                runs.append(_spill(stack, held, directory))
                held, size = [], 0
        held.sort(key=_key)
        yield from heapq.merge(*map(_read, runs), held, key=_key)


def _key(item: Item) -> int:
    return item[0]


def _spill(stack: ExitStack, items: Iterable[Item], directory: Path | None) -> IO[bytes]:
    try:
        run: IO[bytes] = tempfile.TemporaryFile(buffering=_BUFFER_BYTES, dir=directory)  # noqa: SIM115 (by the stack)
        stack.callback(run.close)
        for key, value in items:
            run.write(_HEAD.pack(key, len(value)))
            run.write(value)
        run.flush()
    except OSError as exc:
        where = directory or tempfile.gettempdir()
        raise StateError(
            f"sorting needs room for temporary files in {where}: {exc.strerror}",
            action="name a folder with as much room as the unpacked files take: --temp-dir, or TMPDIR",
            code="temporary_files",
        ) from exc
    return run


def _read(run: IO[bytes]) -> Iterator[Item]:
    run.seek(0)
    while head := run.read(_HEAD.size):
        key, length = _HEAD.unpack(head)
        yield key, run.read(length)
