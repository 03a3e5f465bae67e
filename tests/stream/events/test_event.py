"""Packs of events survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from stream.events.event import Event, Pack, pack, unpack

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
    found = unpack(pack(now, batch))
    assert (found.now, found.events, len(found)) == (now, batch, len(batch))


@given(st.integers(0, 2**60), st.lists(events, max_size=8))
def test_v1_reads_as_the_same_events(now: int, batch: list[Event]) -> None:
    assert unpack(msgpack.packb((1, now, [astuple(event) for event in batch]))) == Pack.of(now, batch)


def test_a_pack_of_the_version_before_is_still_read() -> None:
    """Bytes that v1 wrote (commit 82e4f3c)."""
    bill = Event("user-ä", "bill", 1_760_000_000_000, "e1", "shop by card", (12.5, None), None, "raw.bill", 3, 70_000,
                 1_760_000_000_001, 1_760_000_000_002)  # fmt: skip
    profile = Event("u2", "profile", 5, "raw.p/0/1", "", (), {"age": 41.0, "city": "Rome", "gone": None}, "raw.p", 0, 1,
                    6, 7)  # fmt: skip
    found = unpack(bytes.fromhex(V1))
    assert (found.now, found.events) == (1_760_000_000_009, [bill, profile])
    assert unpack(pack(found.now, found.events)) == found


V1 = (
    "9301cf00000199c82cc009929ca7757365722dc3a4a462696c6ccf00000199c82cc000a26531ac73686f7020627920636172"
    "6492cb4029000000000000c0c0a87261772e62696c6c03ce00011170cf00000199c82cc001cf00000199c82cc0029ca27532"
    "a770726f66696c6505a97261772e702f302f31a09083a3616765cb4044800000000000a463697479a4526f6d65a4676f6e65"
    "c0a57261772e7000010607"
)


def test_a_later_version_is_named() -> None:
    value = bytearray(pack(1, []))
    value[1] = 3
    with pytest.raises(ValueError, match="event pack v3; this version reads v1 and v2"):
        unpack(bytes(value))


def test_columns_that_do_not_fit_together_are_no_pack() -> None:
    event = Event("u", "bill", 1, "e", "t", (1.0,), None, "raw", 0, 0, 1, 1)
    good = Pack.of(1, [event, event])
    for name in Pack.__struct_fields__[4:]:
        column = getattr(good, name) or [None, None]
        for bad in (column[:1], [*column, column[0]]):
            with pytest.raises(ValueError, match="not an event pack: its columns"):
                unpack(msgspec.msgpack.encode(replace(good, **{name: bad})))
    for name in ("modality_of", "source_of"):
        with pytest.raises(ValueError, match="not an event pack: a modality or source"):
            unpack(msgspec.msgpack.encode(replace(good, **{name: [0, 1]})))


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x9f\x02" + tail))
def test_garbage_is_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="event pack"):
        unpack(value)
