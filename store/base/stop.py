"""Told to stop: one way to ask, one way to leave what is under way."""

from __future__ import annotations

from typing import Protocol

from store.base import pulse


class Stopped(Exception):
    """Told to stop in the middle of something: it was given up, and nothing of it counts as done."""


class Stop(Protocol):
    """A threading.Event, or several of them."""

    def is_set(self) -> bool: ...


class AnyOf:
    """Set if one of them is."""

    def __init__(self, *stops: Stop) -> None:
        self._stops = stops

    def is_set(self) -> bool:
        return any(stop.is_set() for stop in self._stops)


def obey(stop: Stop) -> None:
    """Leave by `Stopped` if `stop` is set. Who asks is alive."""
    pulse.beat()
    if stop.is_set():
        raise Stopped
