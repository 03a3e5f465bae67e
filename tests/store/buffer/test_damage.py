"""A damaged database is found and set aside; never is a part of it taken for the whole (B14)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store.base import metrics
from store.base.errors import StateError
from store.buffer.database import DAMAGED
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.token_buffer import TokenBuffer
from store.buffer.view import BufferView
from store.window import layout
from store.window.silence import SilenceTicks
from tests.models.events import DIM, GRANULARITY_MS, Log, days, event, modalities, resources

MODALITIES = {
    name: modality.model_copy(update={"max_events": 900, "window_days": days(10_000_000)})
    for name, modality in modalities().items()
}
Written = tuple[Path, Log, dict[bytes, bytes]]
USERS = [f"u{i}" for i in range(7)]


def buffers(folder: Path) -> PartitionBuffers:
    """With a block cache of its own: a copy of a table file would be found in that of the original."""
    return PartitionBuffers(folder, "kafka:x", MODALITIES, "enc", DIM, GRANULARITY_MS, resources())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A primary with table files of several blocks, all flushed; its log; its rows. Not to be opened again."""
    folder, log = tmp_path_factory.mktemp("written"), Log()
    buffer = buffers(folder).open(0)
    for i in range(0, 4000, 100):
        made = [event(USERS[j % 7], "ab"[j % 2], 1000 + j, f"e{j}", offset=j) for j in range(i, i + 100)]
        log.write(buffer, made, i)
    buffer.compact()
    rows = dict(buffer.rows())
    buffer.close()
    return folder, log, rows


@pytest.fixture
def folder(written: Written, tmp_path: Path) -> Path:
    shutil.copytree(written[0], tmp_path / "copy")
    return tmp_path / "copy"


def newest(path: Path, pattern: str) -> Path:
    return max(path.glob(pattern), key=lambda file: (file.stat().st_mtime_ns, file.name))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)


def table_of(path: Path, family: str) -> Path:
    """The largest table file of a family, by RocksDB's own log."""
    files: dict[int, int] = {}
    for log_file in path.glob("LOG*"):
        for found in re.finditer(r"EVENT_LOG_v1 (\{.*\})", log_file.read_text()):
            entry = json.loads(found[1])
            if entry["event"] == "table_file_creation" and entry["cf_name"] == family:
                files[entry["file_number"]] = entry["file_size"]
    there = [number for number in files if (path / f"{number:06}.sst").exists()]
    return path / f"{max(there, key=files.__getitem__):06}.sst"


AT_OPEN: dict[str, Callable[[Path], Any]] = {
    "table cut": lambda path: cut(newest(path, "*.sst")),
    "table missing": lambda path: newest(path, "*.sst").unlink(),
    "manifest flipped": lambda path: flip(newest(path, "MANIFEST*"), 200),
    "manifest missing": lambda path: newest(path, "MANIFEST*").unlink(),
    "current cut": lambda path: (path / "CURRENT").write_bytes(b""),
    "current another": lambda path: (path / "CURRENT").write_text("MANIFEST-999999\n"),
    "all tables flipped at their ends": lambda path: [
        flip(file, file.stat().st_size - 150) for file in path.glob("*.sst")
    ],
}


@pytest.mark.parametrize("damage", AT_OPEN.values(), ids=AT_OPEN.keys())
def test_what_cannot_be_opened_is_set_aside_and_restored(
    folder: Path, written: Written, damage: Callable[[Path], Any]
) -> None:
    _, log, rows = written
    damage(folder / "0")
    before = metrics.STATE_SET_ASIDE._value.get()
    buffer = buffers(folder).open(0)
    assert metrics.STATE_SET_ASIDE._value.get() == before + 1
    assert (buffer.log_offset, buffer.source_offset) == (0, -1)
    assert (folder / "0.damaged" / "CURRENT").exists()
    log.replay(buffer, chunk=500)
    buffer.finish_restore()
    assert dict(buffer.rows()) == rows
    buffer.close()
    buffers(folder).open(0).close()
    assert metrics.STATE_SET_ASIDE._value.get() == before + 1


def read_rows(buffer: TokenBuffer) -> None:
    list(buffer.rows())


def read_windows(buffer: TokenBuffer) -> None:
    for user in USERS:
        buffer.window(user)


def write_batch(buffer: TokenBuffer) -> None:
    """Everything expires: all rows are read."""
    made = [event(user, m, 99_000_000, f"x{m}") for user in USERS for m in "ab"]
    buffer.prepare(made, source_offset=5000)


def code_of(use: Callable[[TokenBuffer], None], buffer: TokenBuffer) -> str:
    """Of what it raises, which is let go: its frames hold iterators, and these the database's lock."""
    try:
        use(buffer)
    except StateError as exc:
        return exc.code
    return "nothing was raised"


@pytest.mark.parametrize("at", [100, 0.3, 0.6])
@pytest.mark.parametrize(
    ("family", "use"),
    [
        (layout.ROWS, read_rows),
        (layout.ROWS, read_windows),
        (layout.ROWS, write_batch),
        (layout.SUMMARIES, read_windows),
    ],
)
def test_a_flipped_byte_is_never_taken_for_the_end(
    folder: Path, family: str, use: Callable[[TokenBuffer], None], at: float
) -> None:
    """rocksdict's iterators end at a damaged block without a word: windows were short, and embedded so."""
    file = table_of(folder / "0", family)
    flip(file, at if isinstance(at, int) else int(at * (file.stat().st_size if family == layout.ROWS else 700)))
    buffer = buffers(folder).open(0)
    assert code_of(use, buffer) == "state_damaged"
    buffer.close()
    assert "block checksum mismatch" in (folder / "0" / DAMAGED).read_text()
    buffer = buffers(folder).open(0)
    assert buffer.log_offset == 0
    assert (folder / "0.damaged").exists()
    buffer.close()


def test_damage_of_a_replicas_index_of_ticks_is_found_so_too(tmp_path: Path) -> None:
    """Rounds of silence read it beside the buffer: it was an exception like any other, and came back at each start."""
    for again in (False, True):
        buffer = replace(buffers(tmp_path), replica=True).open(0)
        buffer.ticks.keep(SilenceTicks((1,)), empty=not again)
        if again:
            assert code_of(lambda found: found.ticks.due(b"", 1, 10), buffer) == "state_damaged"
        else:
            buffer.ticks.add(f"u{i}" for i in range(100))
            buffer.compact()
        buffer.close()
        if not again:
            flip(table_of(tmp_path / "0", layout.IDS), 100)
    assert (tmp_path / "0" / DAMAGED).exists()


def test_a_view_says_so_too_and_marks_nothing(folder: Path) -> None:
    flip(table_of(folder / "0", layout.ROWS), 30_000)
    with BufferView(folder / "0", MODALITIES) as view, pytest.raises(StateError, match="damaged") as raised:
        list(map(view.window, USERS))
    assert raised.value.code == "state_damaged"
    assert not (folder / "0" / DAMAGED).exists()


def test_what_another_process_has_open_is_not_set_aside(folder: Path) -> None:
    buffer = buffers(folder).open(0)
    with pytest.raises(StateError) as raised:
        buffers(folder).open(0)
    assert raised.value.code == "state_locked"
    assert not (folder / "0.damaged").exists()
    buffer.close()


def test_a_second_damage_takes_the_place_of_the_first(folder: Path) -> None:
    """Bounded: one copy a partition."""
    for _ in range(2):
        (folder / "0" / "CURRENT").write_bytes(b"")
        buffers(folder).open(0).close()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "0.damaged"]
