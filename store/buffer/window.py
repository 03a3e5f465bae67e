"""What the buffer knows of one user, as arrays: the encoder's input."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from store.buffer.rows import Summary


@dataclass(frozen=True, slots=True)
class ModalityWindow:
    """Rows of one (user, modality) in order of (time, name).

    ts: int64 (n,), ms. names: n event ids (tabular: field names). numbers: float32 (n, k), NaN = missing.
    vectors: float16 (n, dim). summary: its summary row.
    """

    summary: Summary
    ts: NDArray[np.int64]
    names: list[str]
    numbers: NDArray[np.float32]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class UserWindow:
    """All modalities of a user that have a summary row, by name."""

    user_id: str
    modalities: dict[str, ModalityWindow] = field(default_factory=dict)

    @property
    def as_of(self) -> int:
        """Newest event time in the window, ms; 0 when it is empty."""
        return max((m.summary.newest for m in self.modalities.values() if m.summary.oldest), default=0)

    @property
    def covers(self) -> dict[str, int]:
        """{"topic:partition": last raw offset covered}, over all modalities."""
        out: dict[str, int] = {}
        for modality in self.modalities.values():
            for source, offset in modality.summary.covers.items():
                out[source] = max(offset, out.get(source, -1))
        return out

    @property
    def events(self) -> dict[str, int]:
        """Rows in the window per modality, those with none left out."""
        return {name: m.summary.rows for name, m in sorted(self.modalities.items()) if m.summary.rows}

    @property
    def ingested_at(self) -> int:
        """Newest ingestion time covered, ms; 0 when nothing was."""
        return max((m.summary.ingested_at for m in self.modalities.values()), default=0)
