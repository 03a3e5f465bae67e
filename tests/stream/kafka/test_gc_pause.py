"""The collector is off while anybody is inside, and on again afterwards, however threads overlap."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.gc_pause import gc_paused


@pytest.fixture(autouse=True)
def _on_afterwards() -> Iterator[None]:
    yield
    gc.enable()


@given(st.lists(st.integers(0, 3), max_size=20), st.booleans())
def test_the_last_one_out_restores_what_was(order: list[int], enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    inside = {}
    for who in order:  # each enters, then leaves, in any interleaving
        if who in inside:
            inside.pop(who).__exit__(None, None, None)
        else:
            inside[who] = gc_paused()
            inside[who].__enter__()
        assert gc.isenabled() == (enabled and not inside)
    for one in inside.values():
        one.__exit__(None, None, None)
    assert gc.isenabled() == enabled
