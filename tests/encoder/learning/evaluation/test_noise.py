"""A history with others' events is the events themselves and copies of others', in order."""

from __future__ import annotations

import numpy as np

from encoder.learning.evaluation.noise import copied, receivers, with_others
from tests.support.small_data_set import history


def test_everybody_receives_one_others_events() -> None:
    to = receivers(50)
    assert sorted(to.tolist()) == list(range(50))
    assert (to != np.arange(50)).all()


def test_a_share_of_moments_is_copied_and_a_moments_rows_go_together() -> None:
    users = np.repeat(np.arange(200), 50)
    ts = np.tile(np.arange(50) // 2, 200)
    chosen = copied(users, ts, 0.3)
    assert abs(chosen.mean() - 0.3) < 0.02
    assert np.array_equal(chosen[::2], chosen[1::2])
    assert not np.array_equal(chosen, copied(users, ts, 0.3, seed=1))


def test_the_history_with_others_events() -> None:
    clean = history(20)
    mixed = with_others(clean, ("bill",), 0.4)
    assert mixed.modalities["search"] is clean.modalities["search"]
    own, both, to = clean.modalities["bill"], mixed.modalities["bill"], receivers(20)
    added = 0
    for user in range(20):
        donor = int(np.flatnonzero(to == user)[0])
        mine, theirs = slice(*own.starts[user : user + 2]), slice(*own.starts[donor : donor + 2])
        chosen = copied(np.full(theirs.stop - theirs.start, donor), own.ts[theirs], 0.4)
        expected = {*zip(own.ts[mine], own.names[mine], own.vectors[mine], strict=True)}
        expected |= {row for row, c in zip(zip(own.ts[theirs], own.names[theirs], own.vectors[theirs], strict=True), chosen, strict=True) if c}  # fmt: skip  # noqa: E501
        rows = slice(*both.starts[user : user + 2])
        assert {*zip(both.ts[rows], both.names[rows], both.vectors[rows], strict=True)} == expected
        assert (np.diff(both.ts[rows]) >= 0).all()
        added += int(chosen.sum())
    assert len(both.ts) == len(own.ts) + added
