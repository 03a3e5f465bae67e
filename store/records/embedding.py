"""The record of `embeddings.<scenario>`: what consumers of embeddings read (design contract, version 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

VERSION = 1
DIM = 128


@dataclass(frozen=True, slots=True)
class EmbeddingRecord:
    """One user's embedding for one scenario.

    as_of: ms, newest event covered. covers: {"topic:partition": last raw offset covered for this user}.
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
    covers: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    registration: int = 0

    def pack(self) -> bytes:
        """Message value."""
        registration = {"registration": self.registration} if self.registration else {}
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                **registration,
                "v": VERSION,
                "user_id": self.user_id,
                "scenario": self.scenario,
                "model": self.model,
                "as_of": self.as_of,
                "covers": self.covers,
                "events": self.events,
                "ingested_at": self.ingested_at,
                "computed_at": self.computed_at,
                "dim": len(self.vector),
                "dtype": "f2",
                "vector": self.vector.astype("<f2").tobytes(),
            }
        )

    @classmethod
    def unpack(cls, value: bytes) -> EmbeddingRecord:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        try:
            raw: dict[str, Any] = msgpack.unpackb(value)
            found = (raw["v"], raw["dtype"], len(raw["vector"]))
            if found != (VERSION, "f2", 2 * raw["dim"]):
                raise ValueError(f"version, dtype and bytes are {found}; this version reads {VERSION}, f2, 2 x dim")
            vector = np.frombuffer(raw["vector"], "<f2").astype(np.float32)
            names = ("user_id", "scenario", "model", "as_of", "ingested_at", "computed_at", "covers", "events")
            return cls(vector=vector, registration=raw.get("registration", 0), **{name: raw[name] for name in names})
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not an embedding record: {exc}") from exc
