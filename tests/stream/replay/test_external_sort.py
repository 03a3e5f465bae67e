"""Sorting on disk is sorting, stable, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.base.errors import StateError
from stream.replay.external_sort import ITEM_OVERHEAD_BYTES, external_sort


@given(
    keys=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=60),
    per_run=st.integers(1, 70),
    max_runs=st.integers(2, 5),
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_sorted_whatever_the_spill(tmp_path: Path, keys: list[int], per_run: int, max_runs: int) -> None:
    """Equal keys keep their order: the values say where they stood."""
    items = [(key, b"%d" % n) for n, key in enumerate(keys)]
    memory = per_run * (ITEM_OVERHEAD_BYTES + 1)
    found = list(external_sort(iter(items), memory_bytes=memory, directory=tmp_path, max_runs=max_runs))
    assert found == sorted(items, key=lambda item: item[0])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_one_that_is_given_up(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    half = external_sort(((-n, b"x") for n in range(1000)), memory_bytes=5000, directory=tmp_path)
    assert [next(half)[0] for _ in range(3)] == [-999, -998, -997]
    assert len(os.listdir("/proc/self/fd")) > before
    assert list(tmp_path.iterdir()) == []  # also while it runs: a kill leaves nothing
    half.close()
    assert len(os.listdir("/proc/self/fd")) == before

    def broken():  # type: ignore[no-untyped-def]
        yield from ((n, b"x") for n in range(500))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(external_sort(broken(), memory_bytes=5000, directory=tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_room_for_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="absent") as found:
        list(external_sort([(1, b"a"), (0, b"b")], memory_bytes=1, directory=tmp_path / "absent"))
    assert found.value.code == "temporary_files"
