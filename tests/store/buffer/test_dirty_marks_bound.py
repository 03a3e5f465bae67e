"""The marks' memory follows the dirty users, however many were refreshed while one of them waited."""

from __future__ import annotations

from store.buffer.dirty_marks import DirtyMarks


def test_one_user_who_waits_long_does_not_keep_the_marks_of_others() -> None:
    marks = DirtyMarks()
    marks.mark(["swept"], 0, 0, sweep=True)
    for offset in range(1, 10_000):
        marks.mark(["busy", "other"], offset, offset, sweep=False)
        marks.clear(["busy"], offset + 1)
        assert marks.oldest() == 0
    assert len(marks._firsts) < 2_000
    marks.clear(["swept"], 1)
    assert marks.oldest() == 1
    marks.clear(["other"], 10_000)
    assert marks.oldest() is None
