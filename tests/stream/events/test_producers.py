"""What real producers send, and what the dead letter says: each row of docs/producers.md."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from store.base.settings import ModalitySettings
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import Rejection, Skipped
from stream.settings import IngestSettings, MappingSettings

NOW = 1_763_719_200_000
"""2025-11-21T10:00Z."""
BILL = {"user_id": "u1", "ts": NOW, "merchant": "m", "channel": "c", "amount": 3}
PAGE = Path(__file__).parents[3] / "docs" / "producers.md"


def as_json(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**BILL, **changes}.items() if v is not ...}).encode()


def judge(value: bytes, mapping: dict[str, Any] | None = None, **settings: Any) -> Event | Rejection | Skipped:
    modality = {"text": "{merchant} by {channel}", "numbers": ("amount",), **settings}
    modalities = {"bill": ModalitySettings(topic="bill", **modality)}
    found = IngestSettings()
    own = {"bill": MappingSettings(**(mapping or {}))}
    rules = Validator(modalities, found, EventClock.of(found, modalities), mapping=own)
    return rules.validate(value, "bill", 0, 7, NOW, NOW)


INSIDE = {"properties": {"merchant": "m", "channel": "c", "amount": 3}, "merchant": ..., "channel": ..., "amount": ...}
DEBEZIUM = {"before": None, "after": BILL, "source": {"table": "bill"}, "op": "c", "ts_ms": NOW}
FRAMED = b"\x00\x00\x00\x00\x2a"


def wrapped(**envelope: Any) -> bytes:
    return json.dumps(envelope).encode()


RENAMED = {"merchant": ..., "channel": ..., "amount": ..., "Merchant": "m", "chan": "c"}
REFUSED: dict[str, tuple[bytes, str]] = {
    "Schema Registry, Avro": (FRAMED + b"\x04u1\x80", "foreign_format"),
    "Schema Registry, Protobuf": (FRAMED + b"\x00\x0a\x02u1\x10\x96\x01", "foreign_format"),
    "Schema Registry, JSON Schema": (FRAMED + as_json(), "foreign_format"),
    "Kafka Connect with schemas": (wrapped(schema={"type": "struct"}, payload=BILL), "foreign_format"),
    "Debezium": (wrapped(**DEBEZIUM), "foreign_format"),
    "Debezium with schemas": (wrapped(schema={}, payload=DEBEZIUM), "foreign_format"),
    "Debezium, a deletion": (wrapped(**{**DEBEZIUM, "op": "d", "before": BILL, "after": None}), "foreign_format"),
    "CloudEvents, structured": (wrapped(specversion="1.0", type="t", source="s", id="1", data=BILL), "foreign_format"),
    "an array of events": (b"[" + as_json() + b"]", "not_an_object"),
    "JSON encoded twice": (json.dumps(as_json().decode()).encode(), "not_an_object"),
    "gzip": (gzip.compress(as_json()), "foreign_format"),
    "zstandard": (b"\x28\xb5\x2f\xfd\x00\x00", "foreign_format"),
    "CSV": (b"u1,2025-11-21T10:00:00Z,m,c,3", "foreign_format"),
    "Protobuf": (b"\x0a\x02u1\x10\x80\xb0\xea\xc6\xaa\x33", "foreign_format"),
    "Avro": (b"\x04u1\x80\xb0\xea\xc6\xaa\x33\x02m", "foreign_format"),
    "an Avro file": (b"Obj\x01\x04\x14avro.codec", "foreign_format"),
    "UTF-16": (json.dumps(BILL).encode("utf-16"), "foreign_format"),
    "XML": (b"<event><user>u1</user></event>", "foreign_format"),
    "seconds": (as_json(ts=NOW // 1000), "ts_too_old"),
    "microseconds": (as_json(ts=NOW * 1000), "ts_in_future"),
    "nanoseconds": (as_json(ts=NOW * 10**6), "ts_in_future"),
    "a local time": (as_json(ts="2025-11-21T10:00:00"), "invalid_ts"),
    "a date": (as_json(ts="2025-11-21"), "invalid_ts"),
    "day first": (as_json(ts="21/11/2025 10:00"), "invalid_ts"),
    "milliseconds as text": (as_json(ts=str(NOW)), "invalid_ts"),
    "another name for the user": (as_json(user_id=..., userId="u1"), "missing_user_id"),
    "a number for the user": (as_json(user_id=17), "invalid_user_id"),
    "an id with a line break": (as_json(user_id="u1\n"), "invalid_user_id"),
    "another name for the time": (as_json(ts=..., timestamp=NOW), "missing_ts"),
    "fields inside others": (as_json(**INSIDE), "no_content"),
    "fields renamed": (as_json(**RENAMED), "no_content"),
    "a number as text": (as_json(amount="12.50"), "invalid_field"),
}
INNER = {"text": "{properties.merchant} by {properties.channel}", "numbers": ("properties.amount",)}
TAKEN: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + as_json(), {}),
    "msgpack": (msgpack.packb(BILL), {}),
    "Java without seconds": (as_json(ts="2025-11-21T10:00Z"), {}),
    "an offset without a colon": (as_json(ts="2025-11-21T10:00:00+0000"), {}),
    "a decimal comma": (as_json(ts="2025-11-21T10:00:00,000Z"), {}),
    "UTC by name": (as_json(ts="2025-11-21 10:00:00 UTC"), {}),
    "`ts_unit`": (as_json(ts=NOW // 1000), {"mapping": {"ts_unit": "s"}}),
    "`ts_zone`": (as_json(ts="2025-11-21 11:00:00"), {"mapping": {"ts_zone": "Europe/Paris"}}),
    "`ts`": (as_json(ts=..., meta={"at": NOW}), {"mapping": {"ts": "meta.at"}}),
    "`user_id`": (as_json(user_id=..., customer={"id": "u1"}), {"mapping": {"user_id": "customer.id"}}),
    "`{properties.merchant}`": (as_json(**INSIDE), INNER),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_dead_letter_says_what_it_is_and_what_to_do(what: str) -> None:
    value, code = REFUSED[what]
    found = judge(value)
    assert isinstance(found, Rejection), found
    assert found.code == code, found
    assert found.detail.isascii()
    assert len(found.detail) < 300
    assert f"| {what} | `{code}` | {found.detail} |" in PAGE.read_text().splitlines()


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken(what: str) -> None:
    value, settings = TAKEN[what]
    found = judge(value, **settings)
    assert isinstance(found, Event), found
    assert (found.user_id, found.ts, found.text, found.numbers) == ("u1", NOW, "m by c", (3.0,))
    assert f"| {what} |" in PAGE.read_text()


INTEGERS = {"user_id_integers": True}


@pytest.mark.parametrize("number", [0, -3, 17, 2**64 - 1, 12345678901234567890])
def test_integers_as_ids_are_exact(number: int) -> None:
    for value in (as_json(user_id=number), msgpack.packb({**BILL, "user_id": number})):
        found = judge(value, INTEGERS)
        assert isinstance(found, Event)
        assert found.user_id == str(number)
    for other in (1.5, 2.0**53, -(2.0**53), 1e300, True, None, [1]):
        assert isinstance(judge(as_json(user_id=other), INTEGERS), Rejection)


def test_the_page_has_no_row_without_a_test() -> None:
    page = PAGE.read_text().split("\n## Events of another shape")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert {row for row in rows if row not in ("it sends", "")} == {*REFUSED, *TAKEN}
