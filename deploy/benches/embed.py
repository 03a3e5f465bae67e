"""Ad-hoc queries end to end: `POST /v1/embed` asked one after the other, next to `GET` of a registered scenario's
embedding, which serve answers from memory.

The whole system runs as separate processes, `tiny` on the CPU, with a population that has histories
(deploy/benches/live/population.py); briefly on the embedded broker, else on Apache Kafka as well. Rows, in
milliseconds: `quiet`, nobody has new events; `load`, one event each of LOAD_USERS_PER_SECOND users a second meanwhile.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deploy import output
from deploy.benches.live.population import Population
from deploy.benches.live.system import LiveSystem
from deploy.benches.live.traffic import Traffic
from deploy.benches.report import BenchResult
from deploy.operate.service_client import Service, quote
from store.base.errors import BrokerError

SCENARIO = "churn"
LOAD_USERS_PER_SECOND = 10
WARM = 20
"""Requests that do not count: first ones pay for connections and caches."""
Ask = Callable[[int, str], object]
"""Sends one request; told which in turn, and of whom."""


def run(*, brief: bool, asked: int = 200, users: int = 100, events: int = 100) -> BenchResult:
    """Measure.

    Args:
        asked: requests of each row. users, events: population, and events of a history on average.

    Raises:
        BenchError: the histories did not arrive. ServiceError: a query was not answered.
    """
    rows: list[dict[str, Any]] = []
    for broker in ("embedded",) if brief else ("embedded", "local"):
        folder = Path(tempfile.mkdtemp(prefix="anchorstream-bench-"))
        try:
            with LiveSystem(folder, broker=broker, scenarios={SCENARIO: "Will this user stop coming?"}) as system:
                rows += [{"broker": broker, **row} for row in _measure(system, asked, users, events)]
        except BrokerError as exc:
            if exc.code not in ("java_missing", "maven_missing"):
                raise
            rows.append({"broker": broker, "case": f"not measured: {exc.detail}"})
        finally:
            shutil.rmtree(folder)
    p50 = {(row["broker"], row["case"], row["call"]): row["p50"] for row in rows if "call" in row}
    ratios = {
        f"embed_vs_get_{case}_{broker}": p50[broker, case, "embed, same query"] / value
        for (broker, case, call), value in p50.items()
        if call == "get"
    }
    return BenchResult(rows, ratios)


def _measure(system: LiveSystem, asked: int, users: int, events: int) -> list[dict[str, Any]]:
    population = Population(users, events, now_ms=time.time_ns() // 1_000_000)
    specs = system.topics.specs(system.settings.modalities, system.settings.scenarios)
    traffic = Traffic(system.launcher.connection, specs, population)
    output.note(f"histories of {users:,} users …")
    traffic.load_histories()
    system.drain()
    service = Service.find(system.settings)

    def get(_: int, user: str) -> object:
        return service.get(f"/v1/users/{quote(user)}/embeddings/{SCENARIO}")

    def embed(query: str, user: str) -> object:
        return service.post("/v1/embed", {"user_id": user, "query": query, "timeout_ms": 30_000})

    calls: dict[str, Ask] = {
        "get": get,
        "embed, same query": lambda _, user: embed("Is a baby on the way?", user),
        "embed, new queries": lambda i, user: embed(f"Will this user buy more than {i} things?", user),
    }
    rows = [{"case": "quiet", "call": name, **_times(ask, population.users, asked)} for name, ask in calls.items()]
    with _load(traffic, service, min(LOAD_USERS_PER_SECOND, users)):
        rows += [{"case": "load", "call": name, **_times(ask, population.users, asked)} for name, ask in calls.items()]
    system.drain()
    system.account(traffic.sent)
    return rows


def _times(ask: Ask, users: list[str], asked: int) -> dict[str, Any]:
    """Milliseconds of requests, one after the other, each of some user."""
    rng = random.Random(1)
    taken = []
    for i in range(WARM + asked):
        user = rng.choice(users)
        begun = time.perf_counter()
        ask(i, user)
        taken.append((time.perf_counter() - begun) * 1000)
    counted = np.asarray(taken[WARM:])
    p50, p90, p99 = (float(p) for p in np.percentile(counted, (50, 90, 99)))
    return {"asked": asked, "p50": p50, "p90": p90, "p99": p99, "max": float(counted.max())}


@contextmanager
def _load(traffic: Traffic, service: Service, users_per_second: int) -> Iterator[None]:
    """Events go on until the block ends."""
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            traffic.steady(service, [SCENARIO], users_per_second=users_per_second, seconds=1, asked_per_second=1)

    with ThreadPoolExecutor(1, "load") as pool:
        sending = pool.submit(send)
        try:
            yield
        finally:
            over.set()
        sending.result()
