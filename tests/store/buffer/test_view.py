"""A view shows what the owner has committed, while the owner goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.errors import StateError
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.buffer.view import BufferView, find
from store.window.encoded_event import EncodedEvent
from store.window.rows import pack_summary
from store.window.user_window import UserWindow

DIM = 4
MODALITIES = {"click": ModalitySettings(topic="in.click", numbers=("seconds",), max_events=3, window_days=1)}
RESOURCES = BufferResources.create()


def open_buffer(path: Path, identity: str = "embedded:a") -> TokenBuffer:
    return TokenBuffer.open(
        path, modalities=MODALITIES, encoder_id="e", dim=DIM, identity=identity, expiry_granularity_ms=1000,
        resources=RESOURCES,
    )  # fmt: skip


def event(user: str, ts: int, name: str, offset: int) -> EncodedEvent:
    vector = np.array([ts % 7, 1, 0, -2], np.float16) / 8
    return EncodedEvent(
        user, "click", ts, name, ts, np.array([ts], np.float32), vector, None, "in.click:0", offset, ts, 1
    )


def same(a: UserWindow, b: UserWindow) -> bool:
    if a.modalities.keys() != b.modalities.keys():
        return False
    pairs = [(a.modalities[name], b.modalities[name]) for name in a.modalities]
    return all(
        pack_summary(x.summary) == pack_summary(y.summary)
        and x.names == y.names
        and np.array_equal(x.ts, y.ts)
        and np.array_equal(x.vectors, y.vectors)
        and np.array_equal(x.numbers, y.numbers)
        for x, y in pairs
    )


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200_000_000), st.integers(0, 9)), max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_a_view_is_the_committed_state(tmp_path_factory: pytest.TempPathFactory, batches) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("view") / "processor" / "0" / "0"
    buffer = open_buffer(path)
    sent = 0
    for offset, batch in enumerate(batches):
        events = [event(user, ts, f"e{name}", sent + i) for i, (user, ts, name) in enumerate(batch)]
        sent += len(events)
        buffer.commit(buffer.prepare(events, source_offset=offset), log_offset=offset + 1)
    with BufferView(path, MODALITIES) as view:
        assert list(view.users()) == list(buffer.users())
        assert (view.source_offset, view.log_offset, view.stream_time) == (
            buffer.source_offset, buffer.log_offset, buffer.stream_time,
        )  # fmt: skip
        assert view.account.sources == buffer.account.sources
        assert view.account.total().total() == sent
        for user in buffer.users():
            assert same(view.window(user), buffer.window(user))
            assert same(view.window_by_scan(user), buffer.window(user))
    buffer.close()
    reopened = open_buffer(path)
    assert reopened.account.total().total() == sent
    reopened.close()


def test_the_furthest_copy_of_this_broker_counts(tmp_path: Path) -> None:
    for instance, identity, log_offset in (("0", "embedded:a", 5), ("1", "embedded:a", 9), ("2", "embedded:old", 50)):
        buffer = open_buffer(tmp_path / instance / "3", identity)
        buffer.commit(buffer.prepare([], source_offset=1), log_offset=log_offset)
        buffer.close()
    (tmp_path / "0" / "lost+found").mkdir()
    assert find(tmp_path, "embedded:a") == {3: tmp_path / "1" / "3"}
    assert find(tmp_path) == {3: tmp_path / "2" / "3"}
    assert find(tmp_path / "nothing") == {}
    with pytest.raises(StateError):
        BufferView(tmp_path / "0", MODALITIES)
