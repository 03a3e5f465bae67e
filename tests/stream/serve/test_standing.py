"""One serve's own standing, by a clock that is passed in."""

from __future__ import annotations

from stream.serve.standing import Standing

A, B = ("t", 0), ("t", 1)


def standing() -> tuple[Standing, list[float]]:
    clock = [100.0]
    return Standing(lambda: clock[0]), clock


def test_who_catches_up_is_behind_since_its_start() -> None:
    at, clock = standing()
    at.assigned([A, B])
    clock[0] += 5
    at.turn({A: False})
    assert at.behind_seconds() == 5
    at.turn({A: True})
    assert at.behind_seconds() == 5  # B has not been read yet
    at.turn({B: True})
    assert at.behind_seconds() == 0


def test_a_partition_at_its_end_stays_there_until_something_comes() -> None:
    at, clock = standing()
    at.assigned([A])
    at.turn({A: True})
    for _ in range(50):
        clock[0] += 1
        at.turn()
        assert at.behind_seconds() == 0
    at.turn({A: False})
    clock[0] += 3
    at.turn({A: False})
    assert at.behind_seconds() == 3
    at.turn({A: True})
    assert at.behind_seconds() == 0


def test_a_loop_that_hangs_is_behind() -> None:
    at, clock = standing()
    at.turn()
    clock[0] += 20
    assert at.behind_seconds() == 20


def test_what_is_read_no_more_holds_nobody_back() -> None:
    at, clock = standing()
    at.assigned([A, B])
    clock[0] += 9
    at.turn({A: True})
    at.dropped([B])
    assert at.behind_seconds() == 0
