"""The restart rules, on a simulated clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.run import supervision as s
from deploy.run.supervision import Phase, RestartPolicy

POLICY = RestartPolicy()


def test_delays_double_up_to_the_longest() -> None:
    state, now, delays = s.on_ready(s.started(0.0), 0.0), 0.0, []
    for _ in range(9):
        state = s.on_exit(state, now, 1, POLICY)
        delays.append(state.retry_at - now)
        now = state.retry_at
        state = s.on_restart(state, now)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_healthy_minute_starts_the_delays_anew_and_a_second_less_does_not() -> None:
    tired = s.on_exit(s.on_restart(s.on_exit(s.on_ready(s.started(0), 0), 1, 1, POLICY), 2), 3, 1, POLICY)
    assert tired.deaths_in_a_row == 2
    again = s.on_ready(s.on_restart(tired, 4), 10)
    assert s.on_exit(again, 70, 1, POLICY).deaths_in_a_row == 1
    assert s.on_exit(again, 69, 1, POLICY).deaths_in_a_row == 3


def test_never_ready_is_given_up_and_once_ready_never() -> None:
    state = s.started(0)
    for n in (1, 2):
        state = s.on_exit(state, n, 1, POLICY)
        assert state.phase is Phase.BACKING_OFF
        state = s.on_restart(state, n)
    assert s.on_exit(state, 3, 1, POLICY).phase is Phase.GIVEN_UP

    state = s.on_ready(s.started(0), 0)
    for n in range(1, 50):
        state = s.on_restart(s.on_exit(state, n, -9, POLICY), n)
    assert state.phase is Phase.STARTING


def test_wrong_configuration_is_given_up_at_once_unless_it_worked_before() -> None:
    assert s.on_exit(s.started(0), 1, 2, POLICY).phase is Phase.GIVEN_UP
    assert s.on_exit(s.on_ready(s.started(0), 0), 1, 2, POLICY).phase is Phase.BACKING_OFF


def test_stopped_and_given_up_are_final() -> None:
    for state in (s.on_stop(s.started(0), 1), s.on_exit(s.started(0), 1, 2, POLICY)):
        assert s.on_exit(state, 2, 1, POLICY) == state
        assert s.on_ready(state, 2) == state
        assert not s.due(state, 1e9)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 200), st.integers(-9, 3)), max_size=40))
def test_delays_stay_within_bounds_and_a_restart_is_never_early(life: list[tuple[bool, float, int]]) -> None:
    state, now = s.started(0.0), 0.0
    for becomes_ready, seconds, code in life:
        if becomes_ready:
            state = s.on_ready(state, now)
        now += seconds
        state = s.on_exit(state, now, code, POLICY)
        if state.phase is Phase.GIVEN_UP:
            assert not state.was_ready
            return
        delay = state.retry_at - now
        assert POLICY.first_delay_seconds <= delay + 1e-9
        assert delay <= POLICY.max_delay_seconds + 1e-9
        assert not s.due(state, now)
        assert s.due(state, state.retry_at)
        now = state.retry_at
        state = s.on_restart(state, now)


@given(st.floats(0, 1e6), st.floats(-50, 50), st.floats(0, 50))
def test_drain_time_is_never_negative_and_never_past_the_deadline(now: float, left: float, each: float) -> None:
    got = s.drain_seconds(now, now + left, each)
    assert 0 <= got <= each
    assert got == 0 or now + got <= now + left + 1e-6
