"""The id index after a bulk load, which looks deleted ids up late: as after applying one row at a time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from store.buffer import log_apply
from store.buffer.token_buffer import TokenBuffer
from store.window.rows import event_key, modality_prefix
from tests.models.events import open_buffer, resources

Rows = list[tuple[bytes, bytes | None]]


def test_ids_after_a_bulk_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_apply, "_HELD_ROWS", 60)
    rng = random.Random(3)
    rows: Rows = []
    expected: dict[bytes, bytes] = {}
    for n in range(3000):
        event_id, ts = f"e{rng.randrange(20)}", 1000 + rng.randrange(3)
        key = event_key("u", "a", ts, event_id)
        name = modality_prefix("u", "a") + event_id.encode()
        if rng.random() < 0.5:
            rows.append((key, b"\x01\x00" + n.to_bytes(8, "big")))
            expected[name] = ts.to_bytes(8, "big") + n.to_bytes(8, "big")
        else:
            rows.append((key, None))
            if expected.get(name, b"")[:8] == ts.to_bytes(8, "big"):
                del expected[name]
    shared = resources()
    loaded, followed = (open_buffer(tmp_path / name, shared) for name in ("loaded", "followed"))
    with loaded.bulk_load():
        _apply(loaded, rows, 17)
    _apply(followed, rows, 1)
    assert _ids(loaded) == _ids(followed) == expected
    assert dict(loaded.rows()) == dict(followed.rows())
    loaded.close()
    followed.close()


def _apply(buffer: TokenBuffer, rows: Rows, size: int) -> None:
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        buffer.apply_log(part, next_offset=at + len(part))


def _ids(buffer: TokenBuffer) -> dict[bytes, bytes]:
    return dict(buffer._db.items(buffer._db.ids, b""))
