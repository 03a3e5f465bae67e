"""A wall clock that is set under a running role."""

from __future__ import annotations

import threading

import pytest

from deploy.run.clock_watch import LOOK_SECONDS, STEP_SECONDS, ClockWatch, watching_clock
from store.base.errors import BrokerError


class Clocks:
    """paused: seconds that pass between one reading and the next."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = 1.79e9
        self.paused = 0.0
        self.watch = ClockWatch(lambda: self.now + self.offset, self._monotonic)

    def _monotonic(self) -> float:
        now, self.now = self.now, self.now + self.paused
        return now

    def back_seconds(self, after: float = 1.0) -> float:
        self.now += after
        return self.watch.back_seconds()


def test_only_a_step_back_is_told_and_once() -> None:
    clocks = Clocks()
    assert [clocks.back_seconds() for _ in range(3)] == [0.0] * 3
    clocks.offset += 3600
    assert clocks.back_seconds() == 0.0
    clocks.offset -= 3600
    assert clocks.back_seconds() == pytest.approx(3600)
    assert clocks.back_seconds() == 0.0


def test_what_is_slewed_or_small_is_none() -> None:
    clocks = Clocks()
    for _ in range(100):
        clocks.offset -= STEP_SECONDS / 2
        assert clocks.back_seconds() == 0.0


def test_a_process_that_stands_still_takes_it_for_no_step() -> None:
    """Between its two readings too: the wall's is older or newer then than it seems."""
    clocks = Clocks()
    clocks.back_seconds()
    assert clocks.back_seconds(after=300.0) == 0.0
    clocks.paused = 100 * LOOK_SECONDS
    assert clocks.back_seconds() == 0.0
    clocks.paused = 0.0
    assert clocks.back_seconds() == 0.0


def test_the_role_is_stopped_and_says_why() -> None:
    clocks, stop = Clocks(), threading.Event()

    def role() -> None:
        with watching_clock(stop, watch=clocks.watch, look_seconds=0.01):
            clocks.offset -= 3600
            assert stop.wait(30)
            raise RuntimeError("what came of it")

    with pytest.raises(BrokerError, match="set back by 3600 s") as caught:
        role()
    assert caught.value.code == "clock_went_back"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_role_that_waits_for_the_old_time_is_ended() -> None:
    """It hears of no end: librdkafka comes back in an hour."""
    clocks, stop, ended = Clocks(), threading.Event(), threading.Event()

    def role() -> None:
        with watching_clock(stop, watch=clocks.watch, look_seconds=0.01, grace_seconds=0.01, end=ended.set):
            clocks.offset -= 3600
            assert ended.wait(30)

    with pytest.raises(BrokerError):
        role()
    assert stop.is_set()


def test_an_end_of_its_own_is_no_step() -> None:
    stop = threading.Event()
    with watching_clock(stop, look_seconds=0.01):
        pass
    with pytest.raises(KeyError), watching_clock(stop, look_seconds=0.01):
        raise KeyError
    assert not stop.is_set()
