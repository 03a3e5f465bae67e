"""Steps: what happened at one moment is one, in order; a sequence is the newest before its moment."""

from __future__ import annotations

import numpy as np

from encoder.learning.moments import Moments
from encoder.learning.sequences.steps import batch, sequences, steps_of
from tests.support.small_data_set import DAY, MODALITIES, START, history


def test_a_moments_rows_are_one_step() -> None:
    past = history(20)
    steps = steps_of(past)
    for user in range(20):
        own = [past.modalities[name].ts[slice(*past.modalities[name].starts[user : user + 2])] for name in MODALITIES]
        expected = np.unique(np.concatenate(own))
        mine = slice(*steps.starts[user : user + 2])
        assert np.array_equal(steps.ts[mine], expected)
        bills = np.isin(expected, own[0])
        assert np.array_equal(steps.features[mine, 64] > 0, bills)  # after the texts: how many bills
        assert (steps.features[mine, 65][bills] > 2).all()  # their amounts' logarithm
        assert (steps.features[mine, 65][~bills] == 0).all()


def test_a_sequence_is_what_came_before_and_within_the_window() -> None:
    steps = steps_of(history(20))
    at = int(steps.ts[steps.starts[3] + 9])
    now = np.array([at, at, START - 1, START + 500 * DAY])
    asked = Moments(np.array([3, 3, 3, 3]), now, np.array([False, True, False, False]), {})
    found = sequences(steps, asked, length=4, window_ms=30 * DAY)
    first = int(steps.starts[3])
    assert found.steps[0].tolist() == list(range(first + 5, first + 9))
    assert found.steps[1].tolist() == list(range(first + 6, first + 10))
    assert found.lengths.tolist() == [4, 4, 1, 1]
    assert found.empty.tolist() == [False, False, True, True]
    made, lengths = batch(steps, found, asked.now, np.arange(4))
    assert made.shape == (4, 4, steps.features.shape[1] + 2)
    assert lengths.tolist() == [4, 4, 1, 1]
    assert made[1, 3, -2] == 0  # the age of what happens now
    assert made[0, 3, -1] > 0
    assert (made[2:] == 0).all()
