"""Standing still is told after a while, from the position at which it began."""

from __future__ import annotations

from stream.reading.stillness import Stillness


def test_who_has_not_moved_for_long_enough_is_told() -> None:
    a, b = ("t", 0), ("t", 1)
    stillness = Stillness(10.0)
    assert stillness.look({a: 5, b: 7}, 0.0) == {}
    assert stillness.look({a: 5, b: 8}, 9.9) == {}
    assert stillness.look({a: 5, b: 8}, 10.0) == {a: 5}
    assert stillness.look({a: 6, b: 8}, 20.0) == {b: 8}
    assert stillness.look({a: 6, b: 8}, 30.0) == {a: 6, b: 8}


def test_what_is_left_out_begins_anew() -> None:
    a = ("t", 0)
    stillness = Stillness(10.0)
    stillness.look({a: 5}, 0.0)
    stillness.look({}, 5.0)  # paused
    assert stillness.look({a: 5}, 12.0) == {}
    assert stillness.look({a: 5}, 22.0) == {a: 5}
