"""Numbers the adapters see besides text vectors: of an event its own, of a summary the statistics of its rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.statistics.window_arrays import Floats, signed_log

VERSION = 2
"""Part of the model id and of a checkpoint's card: other features are another model. 2: encoder/statistics/table.py."""

HOUR_MS = 3_600_000
EPOCH_MS = 1_577_836_800_000
"""2020-01-01 UTC, the origin of rotary positions. Attention only sees differences; a near origin keeps them exact."""


class Numbers(NamedTuple):
    """values: signed logs, 0 where missing; present: 1 or 0. Both float32 (n, k)."""

    values: Floats
    present: Floats


def hours(ts: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Rotary position of an event time: hours since `EPOCH_MS`."""
    return (np.asarray(ts, np.int64) - EPOCH_MS) / HOUR_MS


def numbers(raw: Floats, k: int) -> Numbers:
    """Raw numbers (n, any) → (n, k): missing, infinite and absent columns count as missing."""
    n, have = raw.shape
    values = np.full((n, k), np.nan)
    values[:, : min(have, k)] = raw[:, :k]
    present = np.isfinite(values)
    return Numbers(
        signed_log(np.where(present, values, 0.0)).astype(np.float32),
        present.astype(np.float32),
    )
