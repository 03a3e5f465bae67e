"""The record of `embeddings.<scenario>`: what consumers of embeddings read (design contract, version 1)."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.base import versioned

DIM = 128


class _Wire(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    user_id: str
    scenario: str
    model: str
    as_of: int
    covers: dict[str, int]
    events: dict[str, int]
    ingested_at: int
    computed_at: int
    dim: int
    dtype: Literal["f2"]
    vector: bytes
    registration: int = 0
    newest_event: int = 0


_DECODER = msgspec.msgpack.Decoder(_Wire)


class EmbeddingRecord(msgspec.Struct, frozen=True):
    """One user's embedding for one scenario.

    as_of: ms, the time at which the vector stands: the newest event, or later, where the user has been silent since.
    newest_event: ms; left out (0) = `as_of`, and read so. On the wire only where it differs.
    covers: {"topic:partition": last raw offset covered for this user}.
    events: rows in the window per modality. ingested_at, computed_at: ms.
    registration: of the scenario (store/records/scenario.py); on the wire only where it is not 0.
    vector: float32 (dim,), L2-normalised; float16 on the wire (norm error below 1.3e-4).
    """

    user_id: str
    scenario: str
    model: str
    as_of: int
    ingested_at: int
    computed_at: int
    vector: NDArray[np.float32]
    covers: dict[str, int] = {}
    events: dict[str, int] = {}
    registration: int = 0
    newest_event: int = 0

    def __post_init__(self) -> None:
        if not self.newest_event:
            msgspec.structs.force_setattr(self, "newest_event", self.as_of)

    def pack(self) -> bytes:
        """Message value."""
        return msgspec.msgpack.encode(
            _Wire(
                self.user_id,
                self.scenario,
                self.model,
                self.as_of,
                self.covers,
                self.events,
                self.ingested_at,
                self.computed_at,
                len(self.vector),
                "f2",
                self.vector.astype("<f2").tobytes(),
                self.registration,
                0 if self.newest_event == self.as_of else self.newest_event,
            )
        )

    @classmethod
    def unpack(cls, value: bytes) -> EmbeddingRecord:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        found = versioned.decode(_DECODER, value, "an embedding record")
        if len(found.vector) != 2 * found.dim:
            raise ValueError(f"not an embedding record: {len(found.vector)} bytes are not {found.dim} values of f2")
        return cls(
            found.user_id,
            found.scenario,
            found.model,
            found.as_of,
            found.ingested_at,
            found.computed_at,
            np.frombuffer(found.vector, "<f2").astype(np.float32),
            found.covers,
            found.events,
            found.registration,
            found.newest_event,
        )
