"""From which event time on a modality accepts events. That never moves back, whatever is configured.

Who was erased is forgotten when nothing as old is accepted any more. Were older events accepted after all, since memory
or window has become longer, a replay of history would bring the erased back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgpack

from store.window.window_rules import WindowRules


class Accepted(NamedTuple):
    """Of one modality. kept_ms: age from which on events left no row when this was written, ms. since: event time, ms;
    older events are not accepted however long they would be kept."""

    kept_ms: int
    since: int


def settle(written: Mapping[str, Accepted], rules: WindowRules, stream_time: int) -> dict[str, Accepted]:
    """What holds under the present configuration.

    Args:
        written: what held until `stream_time`.
    """
    edge = rules.edge(stream_time)
    out = dict(written)
    for name, kept in rules.kept.items():
        before = written.get(name, Accepted(kept, 0))
        since = max(before.since, edge - before.kept_ms) if kept > before.kept_ms else before.since
        out[name] = Accepted(kept, since)
    return out


def without_memory(rules: WindowRules) -> dict[str, Accepted]:
    """What held where a version was at work that remembered nothing."""
    return {name: Accepted(modality.window_ms, 0) for name, modality in rules.modalities.items()}


def merge(ours: Mapping[str, Accepted], told: Mapping[str, Accepted]) -> dict[str, Accepted]:
    """What holds after the log has told. Twice is once."""
    out = dict(ours)
    for name, (kept, since) in told.items():
        out[name] = Accepted(kept, max(since, out[name].since if name in out else 0))
    return out


def pack_accepted(accepted: Mapping[str, Accepted]) -> bytes:
    """Bytes in the database and in a marker of the log."""
    return msgpack.packb(dict(accepted))  # type: ignore[no-any-return]


def unpack_accepted(value: bytes) -> dict[str, Accepted]:
    """Inverse of `pack_accepted`."""
    return {name: Accepted(*found) for name, found in msgpack.unpackb(value).items()}
