"""Chunks follow content: stable under append, local under insertion and removal, never over a page."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.forward import chunks

NAMES = st.lists(st.text(min_size=1, max_size=6), max_size=200, unique=True)


def pieces(names: list[str]) -> list[tuple[str, ...]]:
    cuts = chunks.cut(names).tolist()
    return [tuple(names[a:b]) for a, b in pairwise(cuts)]


def anchors(names: list[str]) -> list[int]:
    return np.flatnonzero(chunks.is_anchor(chunks.marks(names))).tolist()


@given(NAMES)
def test_cover_everything_in_order_and_fit_a_page(names: list[str]) -> None:
    cut = pieces(names)
    assert [name for piece in cut for name in piece] == names
    assert all(1 <= len(piece) <= chunks.MAX_ROWS for piece in cut)
    starts = set(chunks.cut(names).tolist())
    assert set(anchors(names)) <= starts


@given(NAMES, NAMES)
def test_append_changes_the_last_chunk_only(names: list[str], more: list[str]) -> None:
    grown = pieces(names + [name for name in more if name not in names])
    before = pieces(names)
    if before:
        assert grown[: len(before) - 1] == before[:-1]
        last = grown[len(before) - 1]
        assert last[: len(before[-1])] == before[-1]


@given(NAMES, st.text(min_size=7, max_size=9), st.data())
def test_insertion_and_removal_stay_between_anchors(names: list[str], new: str, data: st.DataObject) -> None:
    """The bound that holds whatever the ids: nothing changes beyond the anchors around the place."""
    at = data.draw(st.integers(0, len(names)))
    longer = [*names[:at], new, *names[at:]]
    low = max((a for a in anchors(names) if a <= at), default=0)
    if low == at:  # an insertion before an anchor ends the run before it
        low = max((a for a in anchors(names) if a < at), default=0)
    high = min((a for a in anchors(names) if a >= at), default=len(names))
    untouched = set(names[:low]) | set(names[high:])
    for before, after in ((names, longer), (longer, names)):
        changed = set(pieces(before)) - set(pieces(after))
        assert not untouched & {name for piece in changed for name in piece}


@pytest.mark.parametrize("form", ["e{}", "behavior.bill:0:{}", "{:08d}", "7f3a-{:x}-zz"])
def test_on_serial_ids_chunks_are_even_and_a_change_touches_one_or_two(form: str) -> None:
    rng = np.random.default_rng(0)
    sizes: list[int] = []
    touched: list[int] = []
    for trial in range(40):
        names = [form.format(i) for i in sorted(rng.choice(100_000, 250, replace=False))]
        before = pieces(names)
        sizes += map(len, before)
        at = int(rng.integers(len(names)))
        longer = [*names[:at], form.format(200_000 + trial), *names[at:]]
        touched.append(len(set(pieces(longer)) - set(before)))
        del longer[at]
        assert pieces(longer) == before
        touched.append(len(set(pieces([*names[:at], *names[at + 1 :]])) - set(before)))
    assert 12 <= np.mean(sizes) <= 18
    assert np.mean(touched) <= 1.7
    assert np.quantile(touched, 0.95) <= 4


def test_expiry_of_the_oldest_touches_the_first_chunks() -> None:
    names = [f"e{i}" for i in range(250)]
    changes = [len(set(pieces(names[gone + 1 :])) - set(pieces(names[gone:]))) for gone in range(200)]
    assert np.mean(changes) <= 1.7


def test_nothing_to_cut() -> None:
    assert chunks.cut([]).tolist() == [0]
    assert chunks.cut(["a"]).tolist() == [0, 1]


def test_modalities_are_cut_apart() -> None:
    many = [[f"a{i}" for i in range(100)], [], [f"b{i}" for i in range(7)], [f"c{i}" for i in range(60)], []]
    assert [cuts.tolist() for cuts in chunks.cut_each(many)] == [chunks.cut(names).tolist() for names in many]
    assert chunks.cut_each([]) == []
