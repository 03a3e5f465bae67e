"""Dirty marks against a list that is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.buffer.dirty_marks import DirtyMarks

steps = st.lists(
    st.tuples(st.sampled_from("mc"), st.lists(st.sampled_from("uvwxyz"), max_size=3), st.integers(1, 3), st.booleans()),
    max_size=40,
)


@given(steps)
def test_marks_follow_the_log(steps: list[tuple[str, list[str], int, bool]]) -> None:
    """`oldest` never lies above a change that no refresh has seen; a full clear forgets; a reload changes nothing."""
    marks = DirtyMarks()
    changes: list[tuple[str, int, bool]] = []
    stored: dict[str, object] = {}
    end = 0
    for kind, users, n, sweep in steps:
        if kind == "m":
            written = marks.mark(users, end, end + n - 1, sweep=sweep)
            changes += [(user, end + n - 1, sweep) for user in users]
            end += n
        else:
            upto = max(0, end - n)
            would_be = marks.oldest_without(users, upto)
            written = marks.clear(users, upto)
            assert marks.oldest() == would_be
            changes = [c for c in changes if c[0] not in users or c[1] >= upto]
        for user, mark in written:
            stored.pop(user, None)
            if mark is not None:
                stored[user] = mark
        assert {d.user_id for d in marks} == {c[0] for c in changes}
        assert len(marks) == len({c[0] for c in changes})
        oldest = marks.oldest()
        assert (oldest is None) == (not changes)
        for user, mark in marks:
            last = [c[1] for c in changes if c[0] == user]
            assert mark.first <= min(last)
            assert mark.last == max(last)
            assert oldest is not None
            assert oldest <= mark.first
        assert {d.user_id: d.mark for d in DirtyMarks(stored.items())} == {d.user_id: d.mark for d in marks}
        swept = [d.mark.sweep for d in marks]
        assert swept == sorted(swept)
