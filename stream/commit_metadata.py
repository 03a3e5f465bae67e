"""Metadata of a committed offset: `key=value,…`, no `=` or `,` in either. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


def encode(fields: Mapping[str, str | int | None]) -> str:
    """Fields that are None are left out."""
    return ",".join(f"{key}={value}" for key, value in fields.items() if value is not None)


def decode(metadata: str | None) -> dict[str, str]:
    """Inverse of `encode`, values as text; what a hand wrote otherwise is left out."""
    pairs = (part.partition("=") for part in (metadata or "").split(","))
    return {key: value for key, sign, value in pairs if key and sign}


class Waiting(NamedTuple):
    """What a worker has still to do for one partition: users whose embeddings are behind the rows that it has read.

    seconds: until none of its partitions has any, at the pace it has measured; None = it has measured none.
    read: offset up to which it has read, and keeps what it read; None = it does not say.
    """

    users: int
    seconds: float | None = None
    read: int | None = None


class Horizon(NamedTuple):
    """How far time has passed for the silent users of one partition (encoder/worker/silence_rounds.py).

    at: ms, the time up to which ticks count for whatever is computed. reached: everybody's ticks up to here have been
    published. days: which tick times those are, short.
    """

    at: int
    reached: int
    days: str


MAX_WAITING = 136
"""Characters of `with_waiting` beyond the metadata."""


def with_waiting(metadata: str, waiting: Waiting, horizon: Horizon | None = None) -> str:
    """Metadata of the worker's own (without a comma), and what waits behind it, and how far time has passed."""
    seconds = None if waiting.seconds is None else f"{min(waiting.seconds, 1e9):.3g}"
    fields: dict[str, str | int | None] = {"users": waiting.users, "seconds": seconds, "read": waiting.read}
    if horizon is not None:
        fields |= {"horizon": horizon.at, "reached": horizon.reached, "days": horizon.days}
    return f"{metadata},{encode(fields)}"


def without_waiting(metadata: str | None) -> str | None:
    """The metadata that `with_waiting` was given."""
    return None if metadata is None else metadata.partition(",")[0]


def read_waiting(metadata: str | None) -> Waiting | None:
    """Inverse of `with_waiting`; None where nothing is said."""
    fields = decode((metadata or "").partition(",")[2])
    try:
        seconds = fields.get("seconds")
        read = int(fields["read"]) if "read" in fields else None
        return Waiting(int(fields["users"]), None if seconds is None else float(seconds), read)
    except (KeyError, ValueError):
        return None


def read_horizon(metadata: str | None) -> Horizon | None:
    """Inverse of `with_waiting`; None where nothing is said."""
    fields = decode((metadata or "").partition(",")[2])
    try:
        return Horizon(int(fields["horizon"]), int(fields["reached"]), fields["days"])
    except (KeyError, ValueError):
        return None
