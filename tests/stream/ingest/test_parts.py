"""Parts of ingest and processor that need no broker: packing, offsets in flight, packs read back, encoded events."""

from __future__ import annotations

from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from store.base.errors import BrokerError, DataLossError
from store.base.settings import ModalityKind, ModalitySettings
from store.window.encoded_event import EncodedEvent
from store.window.rows import EventRow, pack_event, unpack_event
from stream.dead_letter import RESERVED_BYTES, dead_letter
from stream.events.event import Event, FieldValue, Pack, pack, unpack
from stream.events.packing import packs
from stream.ingest.in_flight import InFlight, RawPosition
from stream.kafka.consumer_errors import ConsumerErrors
from stream.processor.encode_events import digest, encode_events
from stream.processor.faust_app import Message
from stream.processor.read_packs import read_packs
from stream.rejection import ErrorCode, Rejection
from tests.support.hash_encoder import HashEncoder


def event(i: int = 0, *, text: str = "text", modality: str = "click", **changes: Any) -> Event:
    made = Event(f"u{i}", modality, 1000 + i, f"e{i}", text, (1.0, None), None, "raw", 0, i, 1, 2)
    return replace(made, **changes)


@given(st.lists(st.integers(0, 4000), max_size=60), st.integers(1, 20), st.integers(200, 8000))
def test_packs_keep_order_and_bounds(sizes: list[int], max_events: int, max_bytes: int) -> None:
    events = [event(i, text="x" * size) for i, size in enumerate(sizes)]
    made = list(packs(5, events, max_events, max_bytes))
    read = [unpack(value) for value, _ in made]
    assert [sources for _, sources in made] == [p.sources for p in read]
    assert [e for p in read for e in p.events] == events
    assert all(0 < len(p.events) <= max_events for p in read)
    assert all(len(value) <= max_bytes or len(p.events) == 1 for (value, _), p in zip(made, read, strict=True))


@given(st.permutations(range(6)), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_only_an_unbroken_run_of_acknowledged_batches_may_be_committed(order: list[int], outputs: list[int]) -> None:
    """Batches are acknowledged in any order; at each moment the positions stop before the first unfinished one."""
    flight = InFlight()
    batches = [flight.open() for _ in outputs]
    for i, (batch, count) in enumerate(zip(batches, outputs, strict=True)):
        for _ in range(count):
            batch.sent()
        batch.seal({("t", 0): RawPosition(i + 1, None)})
    finished: set[int] = set()
    committed = 0
    for i in order:
        for _ in range(outputs[i]):
            batches[i].on_delivery(None, None)
        finished.add(i)
        # a batch without outputs is finished as soon as it is sealed
        done = finished | {j for j, count in enumerate(outputs) if not count}
        run = next((j for j in range(6) if j not in done), 6)
        committed = flight.take_done().get(("t", 0), RawPosition(committed, None)).next_offset
        assert committed == run
    assert not len(flight)


def test_an_unsealed_or_failed_batch_holds_back_all_later_ones() -> None:
    flight = InFlight()
    failed, unsealed, fine = flight.open(), flight.open(), flight.open()
    failed.sent()
    failed.seal({("t", 0): RawPosition(1, None)})
    failed.on_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), None)
    fine.seal({("t", 0): RawPosition(3, None)})
    assert flight.take_done() == {}
    failed.on_delivery(None, None)
    assert flight.take_done() == {("t", 0): RawPosition(1, None)}
    unsealed.seal({})
    assert flight.take_done() == {("t", 0): RawPosition(3, None)}


def test_dead_letters_carry_original_bytes_and_say_where_from() -> None:
    letter = dead_letter(
        Rejection(ErrorCode.TOO_LARGE, "why"), b"k", b"v" * 10, "t", 3, 9, max_bytes=RESERVED_BYTES + 4
    )
    assert (letter.key, letter.value) == (b"k", b"vvvv")
    assert dict(letter.headers) == {
        "error": b"too_large",
        "detail": b"why",
        "source_topic": b"t",
        "source_partition": b"3",
        "source_offset": b"9",
        "truncated": b"10",
    }
    assert dead_letter(Rejection(ErrorCode.NULL_VALUE, ""), None, None, "t", 0, 0).value is None


CONFIGURED = {"click": ModalitySettings(topic="c", numbers=("a", "b"))}


def test_events_of_a_modality_that_is_configured_otherwise_are_refused() -> None:
    """A rolling restart: ingest has the new configuration, this processor the old one. Nothing is mixed or lost."""
    field = event(1, fields={"x": 1.0}, numbers=())
    narrow, good = event(2, numbers=(1.0,)), event(3)
    messages = [Message(0, 5, pack(5, [field, narrow, good]))]
    contents = read_packs(messages, "events", CONFIGURED)
    assert [e for p in contents.packs for e in p.events] == [good]
    assert [dict(letter.headers)["error"] for letter in contents.refused] == [b"modality_changed"] * 2
    tabular = {"click": ModalitySettings(topic="c", kind=ModalityKind.TABULAR)}
    contents = read_packs(messages, "events", tabular)
    assert [e for p in contents.packs for e in p.events] == [field]
    assert [unpack(letter.value or b"").events for letter in contents.refused] == [[narrow], [good]]


def test_packs_are_read_back_and_the_rest_is_refused() -> None:
    good, stranger = [event(1), event(2)], event(3, modality="smell")
    messages = [
        Message(1, 7, pack(5, good)),
        Message(1, 8, b"rubbish"),
        Message(1, 9, pack(5, [stranger, event(4)])),
    ]
    contents = read_packs(messages, "events", CONFIGURED)
    assert [e for p in contents.packs for e in p.events] == [*good, event(4)]
    assert contents.events == 3
    first, second = contents.refused
    assert (first.value, dict(first.headers)["error"]) == (b"rubbish", b"invalid_pack")
    assert dict(first.headers)["source_offset"] == b"8"
    assert (unpack(second.value or b"").events, dict(second.headers)["error"]) == ([stranger], b"unknown_modality")


@given(st.integers(0, 11), st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary())
def test_a_pack_with_a_wrong_part_is_refused_or_harmless(place: int, value: Any) -> None:
    """Whatever stands in an event's place, what is accepted can be encoded."""
    parts: list[Any] = list(astuple(event()))
    parts[place] = value
    try:
        packed = [pack(5, [Event(*parts)]), msgpack.packb((1, 5, [parts]))]
    except (OverflowError, UnicodeEncodeError, TypeError):  # no msgpack at all, or no key of `sources`
        return
    for value in packed:
        contents = read_packs([Message(0, 0, value)], "events", CONFIGURED)
        assert contents.events + len(contents.refused) == 1
        encode_events(contents.packs, HashEncoder())


@given(st.binary(max_size=100))
def test_no_bytes_in_events_raise(value: bytes) -> None:
    contents = read_packs([Message(0, 0, value)], "events", CONFIGURED)
    assert len(contents.refused) == 1 or contents.events == 0


def test_encoding_keeps_order_and_encodes_each_text_once() -> None:
    seen: list[list[str]] = []

    class Counting(HashEncoder):
        def encode(self, texts: Any) -> Any:
            seen.append(list(texts))
            return super().encode(texts)

    fields: dict[str, FieldValue] = {"age": 41.0, "city": "Rome", "gone": None}
    events = [event(1), event(2), event(3, text="other"), event(4, text="", numbers=(), fields=fields)]
    encoded = encode_events([Pack.of(0, events[:1]), Pack.of(0, events[1:])], Counting())
    assert seen == [["text", "other", "age", "city: Rome"]]
    assert [e.event_id for e in encoded] == ["e1", "e2", "e3", "e4"]
    assert encoded[0].vector.tobytes() == encoded[1].vector.tobytes() != encoded[2].vector.tobytes()
    assert np.isnan(encoded[0].numbers).tolist() == [False, True]
    assert encoded[3].fields is not None
    age, city, gone = encoded[3].fields
    assert (age.numbers.tolist(), age.vector.size, city.numbers.size, gone.vector.size) == ([41.0], 8, 0, 0)
    row = unpack_event(pack_event(EventRow(encoded[0].digest, encoded[0].numbers, encoded[0].vector)))
    assert row.digest == encoded[0].digest


def encode(events: list[Event]) -> list[EncodedEvent]:
    return encode_events([Pack.of(0, events)], HashEncoder())


def test_digest_tells_contents_apart_and_ignores_where_they_came_from() -> None:
    one, again = encode([event(1), event(1, source_offset=99, ingested_at=7)])
    assert one.digest == again.digest
    changed = [event(1, text="y"), event(1, ts=5), event(1, numbers=(2.0, None)), event(1, numbers=(None, 1.0))]
    assert len({e.digest for e in encode([event(1), *changed])}) == 5
    assert 0 <= digest("x") < 2**64
    assert digest(1.0) != digest(None) != digest("None")


_text = st.text(st.characters(codec="utf-8"), max_size=40)
_number = st.none() | st.floats()
_contents = st.tuples(st.integers(0, 2**63 - 1), _text, st.lists(_number, max_size=4).map(tuple)) | st.tuples(
    st.integers(0, 2**63 - 1), st.dictionaries(_text, _number | _text, max_size=20)
)


@given(_contents | _number | _text)
def test_a_digest_is_of_the_msgpack_it_always_was(content: object) -> None:
    """It lies in the rows: another one would make a conflict of every duplicate of an earlier event."""
    packed = msgpack.packb(content)
    assert digest(content) == int.from_bytes(blake2b(packed, digest_size=8).digest(), "big")


@pytest.mark.parametrize(
    ("code", "raises"),
    [
        (KafkaError._AUTO_OFFSET_RESET, DataLossError),
        (KafkaError._AUTHENTICATION, BrokerError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, BrokerError),
        (KafkaError._TRANSPORT, None),
        (KafkaError._ALL_BROKERS_DOWN, None),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, None),
        (KafkaError.NOT_COORDINATOR, None),
    ],
)
def test_only_final_consumer_errors_are_raised(code: int, raises: type[Exception] | None) -> None:
    message = SimpleNamespace(error=lambda: KafkaError(code), topic=lambda: "t", partition=lambda: 0)
    errors = ConsumerErrors("g")
    if raises is None:
        errors.judge(message)
    else:
        with pytest.raises(raises):
            errors.judge(message)
