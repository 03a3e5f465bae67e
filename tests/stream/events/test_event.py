"""Packs of events survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.event import Event, pack, unpack

text = st.text(st.characters(codec="utf-8"), max_size=40)
number = st.one_of(st.none(), st.floats(allow_nan=False))
events = st.builds(
    Event,
    user_id=text,
    modality=text,
    ts=st.integers(0, 2**60),
    event_id=text,
    text=text,
    numbers=st.lists(number, max_size=4).map(tuple),
    fields=st.one_of(st.none(), st.dictionaries(text, st.one_of(st.none(), text, st.floats(allow_nan=False)))),
    source_topic=text,
    source_partition=st.integers(0, 100),
    source_offset=st.integers(0, 2**60),
    produced_at=st.integers(0, 2**50),
    ingested_at=st.integers(0, 2**50),
)


@given(st.integers(0, 2**60), st.lists(events, max_size=8))
def test_round_trip(now: int, batch: list[Event]) -> None:
    assert unpack(pack(now, batch)) == (now, batch)


@given(st.binary(max_size=60))
def test_garbage_is_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="event pack"):
        unpack(value)
