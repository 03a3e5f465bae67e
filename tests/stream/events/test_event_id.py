"""The id that is written into an event: there, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.decode import decode
from stream.events.event_id import derived_id, with_event_id
from stream.events.mapping import TopicMapping

TEXT = st.text(max_size=5)  # Hypothesis makes no lone surrogates in text()
EVENTS = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-9, 2**40) | TEXT, max_size=20)
PLAIN = TopicMapping("behavior.bill", ["bill"])
ID = derived_id("behavior.bill", 3, 1_234_567)


@given(EVENTS, st.sampled_from(["", " ", "\n\t "]), st.booleans(), st.booleans())
def test_json_gets_the_id_and_keeps_every_byte(event: dict[str, Any], space: str, ascii_only: bool, null: bool) -> None:
    event = {**event, "event_id": None} if null else {k: v for k, v in event.items() if k != "event_id"}
    value = (space + json.dumps(event, ensure_ascii=ascii_only) + space).encode()
    filled = with_event_id(value, ID, PLAIN)
    assert decode(filled, 10**6) == {**event, "event_id": ID}
    assert filled.startswith(value.rstrip()[:-1])
    assert with_event_id(filled, "other", PLAIN) == filled


@given(EVENTS, st.booleans())
def test_msgpack_stays_msgpack(event: dict[str, Any], null: bool) -> None:
    event = {**event, "event_id": None} if null else {k: v for k, v in event.items() if k != "event_id"}
    value = msgpack.packb(event)
    filled = with_event_id(value, ID, PLAIN)
    assert decode(filled, 10**6) == {**event, "event_id": ID}
    assert value[5:] in filled
    assert with_event_id(filled, "other", PLAIN) == filled


@pytest.mark.parametrize("size", [0, 14, 15, 16, 65_534, 65_535, 65_536])
def test_every_width_of_a_msgpack_map(size: int) -> None:
    event = {str(n): n for n in range(size)}
    assert decode(with_event_id(msgpack.packb(event), ID, PLAIN), 10**7) == {**event, "event_id": ID}


def test_a_wide_header_of_a_small_map() -> None:
    for head in (b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"):
        assert decode(with_event_id(head + b"\xa1a\x01", ID, PLAIN), 100) == {"a": 1, "event_id": ID}


def test_numbers_are_not_written_anew() -> None:
    value = b'{"amount": 1.50, "big": 1e400000, "amount": 10000000000000000000000.0}'
    assert with_event_id(b'{"amount": 1.50}', ID, PLAIN) == b'{"amount": 1.50,"event_id":"%b"}' % ID.encode()
    assert with_event_id(value, ID, PLAIN).startswith(value[:-1])


@given(st.binary(max_size=60))
def test_what_is_no_event_or_has_an_id_stays(value: bytes) -> None:
    filled = with_event_id(value, ID, PLAIN)
    event = decode(value, 100)
    if not isinstance(event, dict) or event.get("event_id") is not None:
        assert filled == value
    else:
        assert decode(filled, 200) == {**event, "event_id": ID}
