"""Features that are counted for everybody at one time, asked for by pairs of somebody and a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def of_pairs(
    at: Callable[[int], Doubles], people: NDArray[np.int64], times: NDArray[np.int64], columns: int
) -> Doubles:
    """float64 (n, columns): of pairs of a person's place and a time, int64 (n,) each.

    Args:
        at: features of all people at one time, float64 (people, columns).
    """
    found = np.empty((len(times), columns))
    for time in np.unique(times).tolist():
        rows = times == time
        found[rows] = at(time)[people[rows]]
    return found
