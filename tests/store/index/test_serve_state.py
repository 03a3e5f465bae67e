"""What one serve process knows hangs together."""

from __future__ import annotations

import numpy as np

from store.base.settings import ScenarioSettings
from store.index.catalog import ServedScenario
from store.index.door import Entry
from store.index.freshness import AcceptedEvent
from store.index.index import ScenarioIndex
from store.index.serve_state import ServeState
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered


def test_an_event_is_pending_until_the_catalog_covers_it() -> None:
    state = ServeState(["churn"], 2)
    index = ScenarioIndex("churn", registration=0)
    state.catalog.put("churn", ServedScenario(Registered(ScenarioSettings(query="?"), 0), index))
    state.pending.start({0: 0, 1: 0})
    state.pending.observe(0, 0, [AcceptedEvent("anna", "raw:0", 7, 1, 1)])
    assert len(state.pending) == 1
    record = EmbeddingRecord("anna", "churn", "m", 1, 2, 3, np.ones(128, np.float32), {"raw:0": 7}, {"bill": 1})
    index.apply([Entry(0, 0, "anna", record.pack(), 1)], now_ms=1)
    state.pending.advance({"anna"}, now_ms=1)
    assert len(state.pending) == 0
