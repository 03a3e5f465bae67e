"""Other users' events put into a history: how much of what is known of a user may be somebody else's.

All that one user did at one moment goes together (a basket is a payment and its lines), as a copy, to one other user.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History, ModalityHistory


def copied(users: NDArray[np.int64], ts: NDArray[np.int64], share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Whether what a user did at a moment is copied: by the two alone, so that tables and histories agree.

    Args:
        users: int64 (n,), places in the history. ts: int64 (n,), ms. share: of moments.
    """
    with np.errstate(over="ignore"):
        x = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + ts.astype(np.uint64) + np.uint64(seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return x / np.float64(2**64) < share


def receivers(users: int, seed: int = 0) -> NDArray[np.int64]:
    """Whom each user's events are copied to: one other, and everybody gets one user's."""
    ring = np.random.default_rng(seed).permutation(users)
    found = np.empty(users, np.int64)
    found[ring] = np.roll(ring, 1)
    return found


def with_others(history: History, modalities: Collection[str], share: float, seed: int = 0) -> History:
    """The history, and a share of each user's moments in these modalities copied to another user."""
    to = receivers(len(history.users), seed)
    mixed = {name: _mixed(own, to, share, seed) for name, own in history.modalities.items() if name in modalities}
    return replace(history, modalities={**history.modalities, **mixed})


def _mixed(own: ModalityHistory, to: NDArray[np.int64], share: float, seed: int) -> ModalityHistory:
    who = np.repeat(np.arange(len(own.starts) - 1), np.diff(own.starts))
    rows = np.flatnonzero(copied(who, own.ts, share, seed))
    who = np.concatenate([who, to[who[rows]]])
    rows = np.concatenate([np.arange(len(own.ts)), rows])
    by_id = np.argsort(own.names[rows], kind="stable")
    order = by_id[np.lexsort((own.ts[rows][by_id], who[by_id]))]
    rows = rows[order]
    return ModalityHistory(
        np.searchsorted(who[order], np.arange(len(own.starts))),
        own.ts[rows],
        own.names[rows],
        own.numbers[rows],
        own.vectors[rows],
        own.logs[rows],
        own.present[rows],
    )
