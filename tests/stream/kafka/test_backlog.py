"""Unread bytes: never too few, and not many more than there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.backlog import FOREIGN_MESSAGE_BYTES, Backlog

ROUNDS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.booleans(), st.integers(1, FOREIGN_MESSAGE_BYTES)), max_size=8),  # (ours?, size) in order
        st.floats(0, 1),  # how far the reader gets in what is left
    ),
    max_size=20,
)


@given(ROUNDS)
def test_never_underestimates(rounds: list[tuple[list[tuple[bool, int]], float]]) -> None:
    """Whatever is written by whom, and read as it may, the estimate covers the truth; all read means zero."""
    backlog = Backlog()
    log: list[int] = []
    committed = 0
    for messages, progress in rounds:
        for ours, size in messages:
            log.append(size)
            if ours:
                backlog.wrote(size)
        committed += int(progress * (len(log) - committed))
        unread = backlog.unread(committed, len(log))
        assert unread >= sum(log[committed:])
        if committed == len(log):
            assert unread == 0


@given(st.lists(st.tuples(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1)), max_size=20))
def test_alone_it_overestimates_by_less_than_one_round(rounds: list[tuple[list[int], float]]) -> None:
    """With no other writer the error is at most what was written between two marks."""
    backlog = Backlog()
    log: list[int] = []
    committed = 0
    largest_round = 0
    for sizes, progress in rounds:
        for size in sizes:
            log.append(size)
            backlog.wrote(size)
        largest_round = max(largest_round, sum(sizes))
        committed += int(progress * (len(log) - committed))
        assert backlog.unread(committed, len(log)) - sum(log[committed:]) < max(largest_round, 1)


def test_another_writers_messages_do_not_make_it_grow() -> None:
    """Marks are bounded by our own writing, or a stuck reader and a foreign writer would fill memory."""
    backlog = Backlog()
    backlog.wrote(10)
    for end in range(1, 1000):
        backlog.unread(0, end)
    assert len(backlog._milestones) == 2


def test_take_needs_room() -> None:
    """Nothing is counted when there is no room."""
    backlog = Backlog()
    assert not backlog.take(1)
    backlog.room = 10
    assert backlog.take(10)
    assert not backlog.take(1)
    assert (backlog.messages, backlog.size, backlog.room) == (1, 10, 0)
