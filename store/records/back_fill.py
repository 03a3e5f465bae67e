"""Records of `{prefix}.back-fills` (compacted, key = "scenario|partition"): how far a worker's back-fill has come."""

from __future__ import annotations

import msgspec

from store.base import versioned


class BackFillRecord(msgspec.Struct, frozen=True, tag_field="v", tag=1):
    """Of one scenario in one partition.

    registration: see store/records/scenario.py. model: id of the model that the users are brought to.
    done, total: users; total as counted when the back-fill began. complete: nothing is left.
    updated_at: ms. revision: of the scenario, as the worker knew it (store/records/scenario.py).
    error: why the worker cannot compute the scenario at all, `code: detail`; then model is "" and nobody is refreshed.
    asked: the query and prompt that the worker computes (store/records/scenario.py); "" = of an earlier version.
    """

    scenario: str
    partition: int
    registration: int
    model: str
    done: int
    total: int
    complete: bool
    updated_at: int
    revision: int = 0
    error: str = ""
    asked: str = ""

    @property
    def key(self) -> bytes:
        """Message key."""
        return f"{self.scenario}|{self.partition}".encode()

    def pack(self) -> bytes:
        """Message value."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, value: bytes) -> BackFillRecord:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        return versioned.decode(_DECODER, value, "a back-fill record")


_DECODER = msgspec.msgpack.Decoder(BackFillRecord)
