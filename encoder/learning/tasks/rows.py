"""What a task asks: one row per (user, moment), with its answer, in three parts by time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

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
    extra: float32 (n, len(extra_names)), what the question itself says beside the user. asks: int64 (n,), places in the
    data set's questions; empty where nobody asks in words.
    """

    name: str
    users: NDArray[np.int64]
    now: NDArray[np.int64]
    y: NDArray[np.bool_]
    split: NDArray[np.int8]
    extra: NDArray[np.float32]
    extra_names: tuple[str, ...] = ()
    includes_now: bool = False
    asks: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def counts(self, split: Split) -> tuple[int, int]:
        """(rows, positive ones) of a part."""
        mine = self.split == split
        return int(mine.sum()), int((mine & self.y).sum())

    def only(self, kept: NDArray[np.bool_], *, earlier_ms: int = 0) -> Self:
        """Some of the rows; asked as if it were so much earlier, with the answers of their own time."""
        return replace(
            self,
            users=self.users[kept],
            now=self.now[kept] - earlier_ms,
            y=self.y[kept],
            split=self.split[kept],
            extra=self.extra[kept],
            asks=self.asks[kept] if len(self.asks) else self.asks,
        )
