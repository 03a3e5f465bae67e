"""What a task asks: one row per (user, moment), with its answer, in three parts by time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Split(IntEnum):
    """Parts of a task's rows, by time: what is fitted, what chooses, what is reported."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Rows of one binary task.

    users: int64 (n,), places in the data set's list of users. now: int64 (n,), the moment asked at, ms: what happened
    before it is known, and at it only where `includes_now`. y: bool (n,). split: int8 (n,) of `Split`.
    extra: float32 (n, len(extra_names)), what the question itself says beside the user.
    """

    name: str
    users: NDArray[np.int64]
    now: NDArray[np.int64]
    y: NDArray[np.bool_]
    split: NDArray[np.int8]
    extra: NDArray[np.float32]
    extra_names: tuple[str, ...] = ()
    includes_now: bool = False

    def counts(self, split: Split) -> tuple[int, int]:
        """(rows, positive ones) of a part."""
        mine = self.split == split
        return int(mine.sum()), int((mine & self.y).sum())
