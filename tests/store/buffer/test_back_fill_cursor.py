"""Back-fill cursors in the buffer: durable, ordered as the users are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.buffer.back_fill_cursor import BackFillCursor, position_of
from tests.models.events import Log, event, open_buffer, resources

SHARED = resources()
USERS = st.text(min_size=1, max_size=128)


@given(st.binary(max_size=12), st.integers(0, 1 << 16), st.text(max_size=128), st.integers(0, 1 << 40))
def test_cursors_survive_packing(target: bytes, attempt: int, after: str, done: int) -> None:
    after = after.encode("utf-8", "replace").decode()
    cursor = BackFillCursor(target, attempt, after, done, done + 1)
    assert BackFillCursor.unpack(cursor.pack()) == cursor


@pytest.mark.parametrize("value", [b"", b"\xc0", b"\x80", b"\x81\xa1v\x07"])
def test_foreign_values_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a back-fill cursor"):
        BackFillCursor.unpack(value)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text("ab\u00e9\U0001f600", min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_users_after_a_cursor_are_those_not_yet_done(
    tmp_path_factory: pytest.TempPathFactory, ids: set[str], data: st.DataObject
) -> None:
    """Whoever is listed up to a cursor, and from it on, was listed once, in the order that cursors have."""
    buffer = open_buffer(tmp_path_factory.mktemp("b") / "b", SHARED)
    Log().write(buffer, [event(user, name, 1000, f"{user}{name}") for user in sorted(ids) for name in "ab"], 0)
    everyone = list(buffer.users())
    assert everyone == sorted(ids, key=position_of)
    after = data.draw(st.sampled_from(["", *everyone]) | st.text("ab\u00e9", min_size=1, max_size=4))
    done = [user for user in everyone if after and position_of(user) <= position_of(after)]
    assert done + list(buffer.users(after=after)) == everyone
    assert buffer.count_users() == len(ids)
    buffer.close()


def test_cursors_are_durable_all_or_none(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path / "b", SHARED)
    assert buffer.back_fills() == {}
    one, two = BackFillCursor(b"1", 1, "u", 3, 9), BackFillCursor(b"2", 2)
    buffer.save_back_fills({"churn": one, "churn@next": two})
    buffer.close()
    buffer = open_buffer(tmp_path / "b", SHARED)
    assert buffer.back_fills() == {"churn": one, "churn@next": two}
    buffer.save_back_fills({"churn": None, "churn@next": one})
    assert buffer.back_fills() == {"churn@next": one}
    buffer.close()


def test_many_users_are_counted_by_estimate(tmp_path: Path) -> None:
    """Counting every key of millions would hold up live updates for seconds."""
    buffer = open_buffer(tmp_path / "b", SHARED)
    events = [event(f"user-{i:03}", name, 1000, f"{i}{name}") for i in range(300) for name in "ab"]
    Log().write(buffer, events, 0)
    assert buffer.count_users() == 300
    assert buffer.count_users(exact_keys=100) == pytest.approx(300, rel=0.05)
    assert buffer.count_users(exact_keys=600) == 300
    buffer.close()
