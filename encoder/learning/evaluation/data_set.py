"""A data set to be evaluated on: its history, what is asked about it, and features made by hand for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.learning.moments import Moments
from encoder.learning.tasks.questions import Question
from encoder.learning.tasks.rows import TaskRows
from encoder.learning.windows import Windows

Doubles = NDArray[np.float64]


HandMadeFeatures = Callable[[Moments], Doubles]
"""Of users, by their places in the history, from what happened before: float64 (m, k), NaN = nothing to say."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """tasks: rows whose `asks` point to `questions`. zone: of hours and days. hand_made: by name; `base` is there.

    noisy: the windows and features of a history into which a share of other users' events has been put.
    """

    name: str
    windows: Windows
    tasks: list[TaskRows]
    questions: list[Question]
    zone: str
    hand_made: dict[str, HandMadeFeatures]
    noisy: Callable[[float], DataSet] | None = None
