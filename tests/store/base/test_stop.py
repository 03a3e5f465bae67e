"""One way to be told to stop."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.stop import AnyOf, Stopped, obey


@given(st.lists(st.booleans(), max_size=4))
def test_several_are_set_as_soon_as_one_of_them_is(which: list[bool]) -> None:
    stops = [threading.Event() for _ in which]
    several = AnyOf(*stops)
    obey(several)
    for stop, is_set in zip(stops, which, strict=True):
        if is_set:
            stop.set()
    assert several.is_set() == any(which)
    if any(which):
        with pytest.raises(Stopped):
            obey(several)
    else:
        obey(several)
