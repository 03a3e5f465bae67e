"""How many events carried each configured field, as ingest counted: a header of some messages of `events`. Pure.

header `fields` = msgpack [version, time in ms, {modality: [events, {field: how many carried it}]}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

HEADER = "fields"
VERSION = 1


class OfModality(NamedTuple):
    """events: that were judged. carried: of these, how many carried a field; in the configuration's order."""

    events: int
    carried: dict[str, int]


class FieldCounts(NamedTuple):
    """at_ms: when the counting ended."""

    at_ms: int
    modalities: Mapping[str, OfModality]

    def pack(self) -> bytes:
        """Value of the header."""
        return msgspec.msgpack.encode((VERSION, self.at_ms, self.modalities))

    @classmethod
    def unpack(cls, value: bytes | None) -> FieldCounts:
        """Inverse of `pack`. Raises ValueError."""
        try:
            version, at_ms, modalities = _decoder.decode(value or b"")
        except msgspec.MsgspecError as exc:
            raise ValueError(f"not counts of fields: {exc}") from exc
        if version != VERSION:
            raise ValueError(f"counts of fields v{version}; this version reads v{VERSION}")
        return cls(at_ms, modalities)


_decoder = msgspec.msgpack.Decoder(tuple[int, int, dict[str, OfModality]])
