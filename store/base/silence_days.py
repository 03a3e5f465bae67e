"""What `model.silence_days` may be: store/window/silence.py says why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def check_days(days: Sequence[int]) -> None:
    """Raises ValueError where they do not rise, or one does not divide the next."""
    for shorter, longer in pairwise(days):
        if longer <= shorter or longer % shorter:
            raise ValueError(f"{longer} after {shorter}: each must be a multiple of the one before")
