"""A process killed between any two flushes of a bulk load: no window is ever left without its expiry entry (A7)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from store.base import fault
from store.buffer.token_buffer import TokenBuffer
from store.window import layout
from store.window.layout import parse_expiry_key, split_prefix
from tests.models.events import Log, event, modalities, open_buffer, resources

POINT = "buffer.flush"
FLUSHES = 7
"""Of a bulk load that writes its position once: the ids, then six families; the last kill is behind them all."""
USERS = 40
FAR = 1_000_000


def a_log(path: Path) -> tuple[Log, TokenBuffer]:
    """Three modalities, windows that slide, users that come and go."""
    log, buffer = Log(), open_buffer(path, resources())
    for i in range(120):
        made = [event(f"u{(i * 7 + j) % USERS}", "ab"[j % 2], 1000 + i, f"e{i}.{j}", offset=i) for j in range(5)]
        made.append(event(f"u{i % USERS}", "t", 1000 + i, f"t{i}", fields={"x": True}, offset=i))
        log.write(buffer, made, i)
    return log, buffer


def load(directory: Path) -> None:
    """In a child: two bulk loads, so that the second meets what the first has left."""
    log, _ = a_log(directory / "source")
    buffer = open_buffer(directory / "b", resources())
    for upto in (len(log) // 2, len(log)):
        with buffer.bulk_load():
            log.replay(buffer, chunk=50, upto=upto)
    buffer.close()


def run(directory: Path, passes: int) -> int:
    code = f"import tests.store.buffer.test_flush_order as t, pathlib; t.load(pathlib.Path({str(directory)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "ANCHORSTREAM_FAULT": f"{POINT}:{passes}"},
        timeout=120,
        check=False,
    ).returncode


def flushes(path: Path) -> list[list[str]]:
    """Families that had something to flush, one list a flush, from RocksDB's own log."""
    jobs: dict[int, list[str]] = {}
    for line in (path / "LOG").read_text().splitlines():
        if (found := re.search(r"EVENT_LOG_v1 (\{.*\})", line)) is not None:
            entry = json.loads(found[1])
            if entry["event"] == "table_file_creation":
                jobs.setdefault(entry["job"], []).append(entry["cf_name"])
    return list(jobs.values())


def unindexed(buffer: TokenBuffer) -> set[tuple[str, str]]:
    """Windows with a summary but without an entry that is due no later than their oldest row."""
    db = buffer._db
    entries: dict[tuple[str, str], int] = {}
    for key, _ in db.items(db.expiry, b""):
        entry = parse_expiry_key(key)
        window = entry.user_id, entry.modality
        entries[window] = min(entry.ts, entries.get(window, entry.ts))
    late = set()
    for key, _ in db.items(db.summaries, b""):
        window = split_prefix(key[:-1])
        summary = buffer.summary(*window)
        assert summary is not None
        if summary.oldest and entries.get(window, FAR) > max(summary.oldest, 1):
            late.add(window)
    return late


@pytest.mark.parametrize("passes", range(1, 2 * FLUSHES + 2))
def test_a_kill_between_any_two_flushes_leaves_no_window_without_its_expiry_entry(tmp_path: Path, passes: int) -> None:
    ended = run(tmp_path, passes)
    assert ended == (fault.EXIT_CODE if passes <= 2 * FLUSHES else 0)
    done = [family for job in flushes(tmp_path / "b") for family in job]
    order = [layout.FLUSH_ORDER.index(family) for family in done[1:]]  # first the ids alone, to be read
    assert order == sorted(order), "by RocksDB's own log"
    if layout.SUMMARIES in done and passes <= FLUSHES:  # the second load finds the entries of the first
        assert layout.EXPIRY in done
    log, whole = a_log(tmp_path / "whole")
    buffer = open_buffer(tmp_path / "b", resources())
    assert unindexed(buffer) == set()
    log.replay(buffer, chunk=50)
    buffer.finish_restore()
    assert unindexed(buffer) == set()
    assert dict(buffer.rows()) == dict(whole.rows())
    for each in (buffer, whole):  # everything expires but what comes
        Log().write(each, [event("late", "a", FAR, "last", offset=500)], 500)
        Log().write(each, [], 500)
    assert dict(buffer.rows()) == dict(whole.rows())
    assert list(buffer.users()) == ["late"]
    buffer.close()
    whole.close()


def test_a_database_of_an_older_version_that_lacks_entries_is_indexed_once(tmp_path: Path) -> None:
    log, source = a_log(tmp_path / "source")
    buffer = open_buffer(tmp_path / "b", resources())
    log.replay(buffer)
    batch = buffer._db.batch()
    for key, _ in buffer._db.items(buffer._db.expiry, b""):
        batch.delete(key, buffer._db.h_expiry)
    batch.delete(layout.M_INDEXED, buffer._db.h_meta)
    buffer._db.write(batch)
    assert len(unindexed(buffer)) > USERS
    buffer.close()
    buffer = open_buffer(tmp_path / "b", resources())
    assert unindexed(buffer) == set()
    for each in (buffer, source):
        Log().write(each, [event("late", "a", FAR, "last", offset=500)], 500)
        Log().write(each, [], 500)
    assert list(buffer.users()) == list(source.users()) == ["late"]
    buffer.close()
    source.close()


@pytest.mark.parametrize("torn", [False, True])
def test_a_modality_that_is_not_configured_while_the_log_is_applied_expires_once_it_is_again(
    tmp_path: Path, torn: bool
) -> None:
    source, log = open_buffer(tmp_path / "source", resources()), Log()
    for i in range(3):
        log.write(source, [event("u", "b", 1000 + i, f"e{i}", offset=i), event("v", "a", 1000 + i, f"f{i}")], i)
    if torn:
        log.append(source.prepare([event("u", "b", 1010, "x", offset=9)], source_offset=9).puts, sweep=False)
    without = {name: modality for name, modality in modalities().items() if name != "b"}
    buffer = open_buffer(tmp_path / "b", resources(), modalities=without)
    log.replay(buffer)
    buffer.finish_restore()
    buffer.close()
    buffer = open_buffer(tmp_path / "b", resources())
    assert unindexed(buffer) == set()
    assert buffer.finish_restore() == torn
    summary = buffer.summary("u", "b")
    assert summary is not None
    assert summary.rows == 3 + torn
    for each in (buffer, source):
        Log().write(each, [event("late", "a", FAR, "last", offset=500)], 500)
        Log().write(each, [], 500)
        assert list(each.users()) == ["late"]
        each.close()
