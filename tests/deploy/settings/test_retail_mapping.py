"""A public data set of another shape, by configuration alone: UCI Online Retail (Chen 2015, doi 10.24432/C5BW33).

541,909 invoice lines; times are seconds of naive shop time, user ids are floats, and a quarter has none.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from importlib import resources
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deploy.settings.config import load
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import Skipped
from stream.replay.open_files import open_rows
from stream.replay.replay import Router

FILES = [folder / "shared" / "data" / "online_retail" / "online_retail.parquet" for folder in Path(__file__).parents]
FILE = next((file for file in FILES if file.exists()), None)
NOW = 1_763_719_200_000
EVERY = 7


@pytest.mark.skipif(FILE is None, reason="the data set is not here: shared/data/online_retail/")
def test_online_retail_needs_no_script() -> None:
    settings = load(Path(str(resources.files("deploy") / "examples" / "online_retail.toml")))
    clock = EventClock.of(settings.ingest, settings.modalities, lenient=True)
    rules = Validator(settings.modalities, settings.ingest, clock, mapping=settings.mapping)
    router = Router(settings.modalities, "dead", settings.mapping)
    with open_rows(str(FILE)) as file:
        rows = [row.value for row in islice(file, 0, None, EVERY) if row.value is not None]
    assert len(rows) > 75_000
    found, ids, lines, summer = Counter[str](), set(), set(), 0
    london = ZoneInfo("Europe/London")
    for offset, value in enumerate(rows):
        row, sent = json.loads(value), router.route(value)
        verdict = rules.validate(value, sent.topic, 0, offset, NOW, NOW)
        found[type(verdict).__name__] += 1
        assert isinstance(verdict, Skipped) == (row.get("CustomerID") is None), (row, verdict)
        if isinstance(verdict, Event):
            assert (sent.key, sent.ts) == (verdict.user_id.encode(), verdict.ts)
            local = datetime.fromtimestamp(verdict.ts / 1000, UTC).astimezone(london)
            assert local.replace(tzinfo=UTC).timestamp() == row["InvoiceDate"], "what the shop's clock showed"
            summer += local.utcoffset() != datetime.fromtimestamp(0, UTC).utcoffset()
            assert verdict.user_id == str(int(row["CustomerID"]))
            assert verdict.numbers == (row["Quantity"], row["UnitPrice"])
            ids.add(verdict.event_id)
            lines.add(tuple(row[name] for name in settings.mapping["retail"].event_id))
    assert found["Rejection"] == 0
    assert found["Event"] > 50_000
    assert summer > 20_000
    assert len(ids) == len(lines), "as many ids as different lines"
