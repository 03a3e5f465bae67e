"""The disk takes no more: an error with what to do, at whatever the buffer was doing; then it goes on where it was."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.benches.state import DIM, MODALITIES, Source
from store.base.errors import StateError
from store.buffer.resources import BufferResources
from tests.models.events import MIB, Log, open_buffer

SHARED = BufferResources.create(block_cache_bytes=8 * MIB, write_buffer_bytes=8 * MIB)
SETTINGS: dict[str, Any] = {"modalities": MODALITIES, "dim": DIM}
LIMIT = 2 * MIB
"""Of any file, as a quota would have it."""


def fill(directory: Path, *, replica: bool) -> None:
    """In a process of its own."""
    source, log = Source(20), Log()
    made = open_buffer(directory / "source", SHARED, **SETTINGS)
    for i in range(60):
        log.write(made, source.take(100), i)
    made.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    buffer = open_buffer(directory / "b", SHARED, **SETTINGS, replica=replica)
    said = []
    for act in (lambda: write(buffer, log, replica), buffer.close):
        try:
            act()
        except StateError as exc:
            said.append(f"{exc.code} {exc.detail} {exc.action}")
    assert len(said) >= 1, said
    assert all("data_dir_unwritable" in line and str(directory / "b") in line and "space" in line for line in said), (
        said
    )


def write(buffer: Any, log: Log, replica: bool) -> None:
    if replica:
        log.replay(buffer, chunk=100)
    else:
        source, other = Source(20), Log()
        for i in range(60):
            other.write(buffer, source.take(100), i)


def run(directory: Path, replica: bool) -> None:
    code = "import tests.store.buffer.test_full_disk as t, pathlib; "
    code += f"t.fill(pathlib.Path({str(directory)!r}), replica={replica})"
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_a_processors_buffer(tmp_path: Path) -> None:
    run(tmp_path, replica=False)
    open_buffer(tmp_path / "b", SHARED, **SETTINGS).close()


def test_a_workers_replica(tmp_path: Path) -> None:
    run(tmp_path, replica=True)
    open_buffer(tmp_path / "b", SHARED, **SETTINGS, replica=True).close()
