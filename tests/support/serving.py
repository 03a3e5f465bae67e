"""An HTTP service over indexes that a test fills, without Kafka."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import httpx
import numpy as np
from fastapi import FastAPI

from store.base.settings import ScenarioSettings, ServeSettings
from store.http.app import create_app
from store.http.service import Service
from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog, ServedScenario
from store.index.door import Entry
from store.index.field_board import FieldBoard
from store.index.freshness import AcceptedEvent, PendingEvents
from store.index.index import ScenarioIndex
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered


class Client:
    """Requests to an ASGI application, one event loop each; answers errors as a server would."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return anyio.run(ask)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


async def streamed(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A body without a length."""
    for chunk in chunks:
        yield chunk


class Serving:
    """Two scenarios, `churn` and `credit`."""

    def __init__(
        self,
        lag: Any = lambda: {"lag_messages": 0, "groups": []},
        account: Any = lambda: {"adds_up": True, "lines": [], "topics": [], "modalities": []},
        **settings: Any,
    ) -> None:
        self.catalog = Catalog()
        for name in ("churn", "credit"):
            self.serve(name, Registered(ScenarioSettings(query=f"Will it be {name}?")))
        self.tracker = PendingEvents(tuple(self.catalog), self.catalog.coverage)
        self.board = BackFillBoard(2)
        self.fields = FieldBoard()
        self.ready = threading.Event()
        self.ready.set()
        self.offset = 0
        self.sources: dict[str, str] = {}
        self.service = Service(
            ServeSettings(**settings),
            self.catalog,
            self.tracker,
            lag,
            account,
            self.ready,
            self.board,
            self.fields,
            source_of=lambda topic: self.sources.get(topic, topic),
        )
        self.app = create_app(self.service)
        self.client = Client(self.app)

    def add(
        self,
        user: str,
        vector: Any = None,
        *,
        scenario: str = "churn",
        covered: int = 0,
        model: str = "m",
        source: str = "raw:0",
    ) -> None:
        self.offset += 1
        values = np.random.default_rng(self.offset).standard_normal(128) if vector is None else np.asarray(vector)
        record = EmbeddingRecord(
            user, scenario, model, 1, 2, 3, values.astype(np.float32), {source: covered}, {"bill": 2}
        )
        self.catalog[scenario].index.apply([Entry(0, self.offset, user, record.pack(), 1)], now_ms=1)

    def serve(self, name: str, entry: Registered) -> None:
        """As the tail does."""
        self.catalog.put(name, ServedScenario(entry, ScenarioIndex(name, registration=entry.registration)))

    def accept(self, user: str, offset: int) -> None:
        self.tracker.observe(0, offset, [AcceptedEvent(user, "raw:0", offset, 1, 1)])
