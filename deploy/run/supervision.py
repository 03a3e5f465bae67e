"""When to start, restart and give up a child: pure rules; `deploy/run/supervisor.py` owns the processes.

    STARTING ──ready──▶ READY
        │                 │
        └──────exit───────┴──▶ BACKING_OFF ──retry_at reached──▶ STARTING
                                   │ first_ready never seen and give_up_after exits in a row
                                   └──▶ GIVEN_UP
    any ──stop──▶ STOPPED

Time is the caller's clock in seconds; nothing here reads one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where a child is."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    GIVEN_UP = "given_up"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """first_delay_seconds doubles per death up to max_delay_seconds; a child ready for healthy_seconds starts anew.

    give_up_after: deaths in a row of a child that was never ready: its configuration is wrong, not its luck.
    final_exit_codes: of a child that was never ready, such an exit is given up at once (2 = wrong configuration).
    """

    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30.0
    healthy_seconds: float = 60.0
    give_up_after: int = 3
    final_exit_codes: tuple[int, ...] = (2,)


@dataclass(frozen=True, slots=True)
class ChildState:
    """One child's life so far.

    since: when this phase began. deaths_in_a_row: since the start or the last healthy period.
    retry_at: when to start again (BACKING_OFF only). starts: processes started in all.
    """

    phase: Phase
    since: float
    starts: int = 1
    deaths_in_a_row: int = 0
    was_ready: bool = False
    retry_at: float = 0.0


def started(now: float) -> ChildState:
    """A child whose first process has just been started."""
    return ChildState(Phase.STARTING, now)


def on_ready(state: ChildState, now: float) -> ChildState:
    """The child says that it works."""
    if state.phase is not Phase.STARTING:
        return state
    return replace(state, phase=Phase.READY, since=now, was_ready=True)


def on_exit(state: ChildState, now: float, exit_code: int, policy: RestartPolicy) -> ChildState:
    """The child's process ended (exit_code < 0: by that signal) though nobody asked it to."""
    if state.phase not in (Phase.STARTING, Phase.READY):
        return state
    healthy = state.phase is Phase.READY and now - state.since >= policy.healthy_seconds
    deaths = 1 if healthy else state.deaths_in_a_row + 1
    hopeless = not state.was_ready and (deaths >= policy.give_up_after or exit_code in policy.final_exit_codes)
    if hopeless:
        return replace(state, phase=Phase.GIVEN_UP, since=now, deaths_in_a_row=deaths)
    # the exponent is capped so that a child that dies for weeks does not overflow a float
    delay = min(policy.max_delay_seconds, policy.first_delay_seconds * 2.0 ** min(deaths - 1, 32))
    return replace(state, phase=Phase.BACKING_OFF, since=now, deaths_in_a_row=deaths, retry_at=now + delay)


def due(state: ChildState, now: float) -> bool:
    """Whether to start the child again now."""
    return state.phase is Phase.BACKING_OFF and now >= state.retry_at


def on_restart(state: ChildState, now: float) -> ChildState:
    """Another process was started."""
    return replace(state, phase=Phase.STARTING, since=now, starts=state.starts + 1)


def on_stop(state: ChildState, now: float) -> ChildState:
    """The child was asked to stop and has."""
    return replace(state, phase=Phase.STOPPED, since=now)


def drain_seconds(now: float, deadline: float, per_child_seconds: float) -> float:
    """How long one child may take to stop when all must have stopped by `deadline`."""
    return max(0.0, min(per_child_seconds, deadline - now))
