"""Writes without the WAL (restore): a process that dies takes the database back to an earlier position, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.benches.state import DIM, MODALITIES, Source
from store.buffer import log_apply
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.layout import M_LOG_OFFSET
from tests.models.events import MIB, Log, open_buffer

EXIT = 42
SHARED = BufferResources.create(block_cache_bytes=8 * MIB, write_buffer_bytes=8 * MIB)
SETTINGS: dict[str, Any] = {"modalities": MODALITIES, "dim": DIM}


def a_log(path: Path) -> tuple[Log, TokenBuffer, Source]:
    """10 MB of rows of 20 users: more than the 8 MiB of memtables."""
    log, buffer, source = Log(), open_buffer(path, SHARED, **SETTINGS), Source(20)
    for i in range(90):
        log.write(buffer, source.take(100), i)
    return log, buffer, source


def restore(buffer: TokenBuffer, log: Log, upto: int) -> None:
    while buffer.log_offset < upto:
        rows = [record[:2] for record in log.records[buffer.log_offset : min(upto, buffer.log_offset + 100)]]
        buffer.apply_log(rows, next_offset=buffer.log_offset + len(rows))


def restore_and_die(directory: Path) -> None:
    log, _, _ = a_log(directory / "filler")
    log_apply._HELD_ROWS = 1000
    buffer = open_buffer(directory / "b", SHARED, **SETTINGS)  # alive to the end: a database let go would flush
    with buffer.bulk_load():
        restore(buffer, log, len(log) * 9 // 10)
        os._exit(EXIT)


def test_a_crash_while_bulk_loading_loses_time_only(tmp_path: Path) -> None:
    code = f"import {__name__} as t, pathlib; t.restore_and_die(pathlib.Path({str(tmp_path)!r}))"
    code = code.replace(__name__, "tests.store.buffer.test_crash")
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, timeout=60, check=False)
    assert ended.returncode == EXIT, ended.stderr.decode()
    log, whole, source = a_log(tmp_path / "whole")
    buffer = open_buffer(tmp_path / "b", SHARED, **SETTINGS)
    assert 0 < buffer.log_offset < len(log) * 9 // 10, "some was flushed, some was lost"
    prefix = open_buffer(tmp_path / "prefix", SHARED, **SETTINGS)
    restore(prefix, log, buffer.log_offset)
    assert buffer._log.unsummed == prefix._log.unsummed
    left = dict(buffer.rows())
    ahead = {key for key, value in log_state(log, buffer.log_offset).items() if left.get(key) != value}
    later = {key for key, _, _ in log.records[buffer.log_offset :]}
    assert ahead <= later, "whatever is not as of the position comes again"
    restore(buffer, log, len(log))
    buffer.finish_restore()
    assert dict(buffer.rows()) == dict(whole.rows())
    assert list(buffer._db.items(buffer._db.ids, b"")) == list(whole._db.items(whole._db.ids, b""))
    more = source.take(50)
    for both in (buffer, whole):
        changes = both.prepare(more, source_offset=99)
        assert changes.outcomes.applied == 50
        both.commit(changes, log_offset=0)
    assert dict(buffer.rows()) == dict(whole.rows())
    for each in (buffer, whole, prefix):
        each.close()


def log_state(log: Log, upto: int) -> dict[bytes, bytes | None]:
    """What the log's first records leave."""
    return {key: value for key, value, _ in log.records[:upto]}


def test_a_bulk_load_is_durable_when_it_ends(tmp_path: Path) -> None:
    """Else a commit could survive a crash that the rows it builds on do not."""
    log, whole, _ = a_log(tmp_path / "whole")
    whole.close()
    buffer = open_buffer(tmp_path / "b", SHARED, **SETTINGS)
    with buffer.bulk_load():
        restore(buffer, log, 500)
        assert buffer._db._unsettled
    assert not buffer._db._unsettled
    assert buffer._db.get_int(M_LOG_OFFSET, 0) == buffer.log_offset
    buffer.close()
