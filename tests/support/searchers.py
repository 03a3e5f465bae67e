"""Made-up users of whom neither bills nor searches tell anything alone: the two are of one kind, or of different."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History, collect
from store.window.encoded_event import EncodedEvent
from tests.support.small_data_set import COFFEE, DAY, MODALITIES, START, TEA
from tests.support.windows import DIM, vector

DAYS = 60
NOISE = 0.18
"""Of the events that are of the other kind."""


def kinds(users: int) -> NDArray[np.bool_]:
    """Who buys, and who searches for tea, bool (2, users); users are called u000 and so on."""
    return np.random.default_rng(0).random((2, users)) < 0.5


def history(users: int) -> History:
    """A bill every third day or so, and a search every fifth."""
    rng, made = np.random.default_rng(1), []
    for u, of in enumerate(kinds(users).T):
        for day in range(DAYS):
            for name, share, tea in (("bill", 0.3, of[0]), ("search", 0.2, of[1])):
                if rng.random() < share:
                    what = TEA if tea ^ (rng.random() < NOISE) else COFFEE
                    numbers = np.array([rng.normal(20, 5)] if name == "bill" else [], np.float32)
                    made.append(
                        EncodedEvent(
                            f"u{u:03}", name, START + day * DAY + u, f"{name}-{u}-{day}", len(made) + 1, numbers,
                            vector(what), None, "t:0", len(made), 0,
                        )
                    )  # fmt: skip
    return collect([made], MODALITIES, DIM)
