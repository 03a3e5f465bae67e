"""What is seen of an event's fields, and what is said of those that are not there."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from store.base import logs
from store.base.settings import ModalitySettings
from stream.events.content import Content
from stream.events.field_counts import OfModality
from stream.events.field_names import names
from stream.events.mapping import TopicMapping
from stream.events.refused import Refused
from stream.ingest.field_presence import FEW, SECONDS, FieldPresence
from stream.rejection import ErrorCode
from stream.settings import MappingSettings

BILL: dict[str, Any] = {"text": "{merchant} by {channel}", "numbers": ("amount",)}


def content(mapping: MappingSettings | None = None, **settings: Any) -> Content:
    own = TopicMapping("t", ["m"], mapping or MappingSettings())
    return Content(ModalitySettings(topic="t", **(settings or BILL)), own)


def refusal(rules: Content, raw: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        rules.of(raw)
    assert caught.value.rejection.code is ErrorCode.NO_CONTENT
    return caught.value.rejection.detail


def test_fields_inside_others_are_seen() -> None:
    rules = content(text="{properties.sku} in {properties.shop.name}", numbers=("properties.price", "n"))
    raw = {"properties": {"sku": "a1", "price": 2, "shop": {"name": "x"}}, "n": 1.5}
    assert rules.of(raw) == ("a1 in x", (2.0, 1.5), None)
    assert rules.of({"properties.sku": "flat", "properties.price": 3.5}) == ("flat in", (3.5, None), None)
    with pytest.raises(Refused, match="not a finite number"):
        rules.of({"properties": {"price": "2"}})


@pytest.mark.parametrize(
    "raw",
    [
        {"Merchant": "m", "chan": "c", "Amount": 3},
        {"properties": {"merchant": "m", "channel": "c", "amount": 3}},
        {"merchant": None, "channel": None, "amount": None},
        {},
    ],
)
def test_an_event_with_none_of_its_fields_is_refused(raw: dict[str, Any]) -> None:
    """A1: accepted, with the text `by`."""
    raw = {"user_id": "u", "ts": 1, **raw}
    assert refusal(content(), raw) == f"none of merchant, channel, amount; it has {names(raw)}"
    lenient = content(**BILL, require_content=False)
    assert lenient.of(raw) == ("by", (None,), None)


@pytest.mark.parametrize("raw", [{"merchant": ""}, {"channel": 0}, {"amount": 0}, {"merchant": False}])
def test_one_field_is_content(raw: dict[str, Any]) -> None:
    content().of(raw)


def test_what_needs_no_field() -> None:
    """A text without fields says enough by being there."""
    assert content(text="login").of({}) == ("login", (), None)
    assert content(text="login", numbers=("seconds",)).of({}) == ("login", (None,), None)
    assert content(text="", numbers=("n",)).of({"n": 1}) == ("", (1.0,), None)
    assert content(text="").of({"x": 1}) == ("x: 1", (), None)
    assert refusal(content(text=""), {"user_id": "u", "nested": {"a": 1}}) == "no text; it has user_id, nested.a"
    assert refusal(content(text="", numbers=("n",)), {"ts": 1}) == "none of n; it has ts"


def test_a_tabular_event_without_a_field_is_refused() -> None:
    rules = content(MappingSettings(user_id="who", ts="at"), kind="tabular")
    assert refusal(rules, {"who": "u", "at": 1, "nested": {"a": 1}}) == "no field but who, at, nested.a"
    assert rules.of({"who": "u", "city": None}) == ("", (), {"city": None})


def test_names_are_few_short_and_printable() -> None:
    shown = names({f"é{'x' * 60}{i}": 1 for i in range(30)})
    assert shown.isascii()
    assert len(shown) < 600
    assert shown.endswith(" and 18 more")


def test_fields_that_nobody_sends_are_named_once_a_minute() -> None:
    rules = content()
    now = 0.0
    presence = FieldPresence({"bill": rules}, lambda: now)
    with structlog.testing.capture_logs() as found:
        for i in range(FEW):
            rules.of({"merchant": "m", "chan": "c"} | ({"amount": 1} if i % 2 else {}))
        presence.look()
        assert found == [], "not yet"
        now = SECONDS
        presence.look()
        now = 2 * SECONDS - 1
        presence.look()
    (line,) = found
    assert line["event"] == logs.FIELDS_MISSING
    assert (line["modality"], line["events"], line["missing"]) == ("bill", FEW, ["channel"])
    assert "chan" in line["seen"]
    assert present("merchant") == 1.0
    assert present("channel") == 0.0
    assert present("amount") == 0.5
    assert presence.counts == {"bill": OfModality(FEW, {"merchant": FEW, "channel": 0, "amount": FEW // 2})}


def test_a_field_that_comes_back_is_not_named() -> None:
    rules = content()
    now = 0.0
    presence = FieldPresence({"bill": rules}, lambda: now)
    for _ in range(FEW):
        rules.of({"merchant": "m"})
    now = SECONDS
    presence.look()
    for _ in range(FEW - 1):
        rules.of({"merchant": "m"})
    now = 2 * SECONDS
    with structlog.testing.capture_logs() as found:
        presence.look()
        assert found == [], "too few to say"
        rules.of({"merchant": "m", "channel": "c", "amount": 2})
        now = 3 * SECONDS
        presence.look()
    assert found == []
    assert present("channel") == 1 / FEW


def present(field: str) -> float | None:
    return REGISTRY.get_sample_value("anchorstream_field_present_ratio", {"modality": "bill", "field": field})
