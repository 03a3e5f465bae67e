"""Who may write a partition of `tokens`: a former owner that wakes up late (a zombie) is not believed.

Kafka's group protocol gives a partition to one processor at a time, but a processor that was stopped and goes on may
still deliver what it had queued. So every record carries its writer in the header `owner`, 8 bytes:

    u32 epoch | u32 random, big-endian

and a new owner takes an epoch above every one it has read. The rule, for every reader, in log order:

    a record counts if and only if no record with a greater owner came before it.

No marker has to be found, so compaction may remove any. docs/commit-protocol.md says why this is enough, and what the
owner does about a zombie's record that replaced its own in the compacted log.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

OWNER_HEADER = "owner"
SWEEP_HEADER = "sweep"
"""Present (empty) on records caused by expiry alone."""
MARKER_KEY = b"\xff\xffowner"
"""Key of a takeover's marker; no row key begins like this (a user id has at most 128 bytes). Its value is the schema of
the rows (store/window/layout.py::Schema)."""

_OWNER = struct.Struct(">II")


@dataclass(slots=True)
class Ownership:
    """State of the rule: the greatest owner read so far, empty = none."""

    current: bytes = b""

    def admits(self, owner: bytes) -> bool:
        """Whether the next record of the log counts. `owner`: its header, empty if it has none."""
        if owner < self.current:
            return False
        self.current = owner
        return True

    def successor(self, random: int) -> bytes:
        """An owner above all read so far. `random`: 32 bits, so that two that take over at once differ."""
        return _OWNER.pack(epoch(self.current) + 1, random & 0xFFFFFFFF)


def epoch(owner: bytes) -> int:
    """Epoch of an owner; 0 = none."""
    return int(_OWNER.unpack(owner)[0]) if owner else 0
