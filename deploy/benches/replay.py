"""A first replay, end to end: a history lies in the raw topics → everybody is queryable in every scenario.

The whole system runs as separate processes on an Apache Kafka of its own, `tiny` on the CPU. A history of many events
of each user is published as fast as the broker takes it, the roles being up; then the worker is started without its
state: it reads `tokens` to the end and computes each user once, with the cores to itself. That is what a replay has to
be compared with.

    published            seconds until the broker has acknowledged all events
    events in `tokens`   until ingest and processor have been through all of them
    all queryable        until every lag is 0
    worker alone         the same of the worker, from its start, which includes that of a process

Records per user and scenario: 1 is the least there can be.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from deploy import output
from deploy.benches.freshness import QUERIES
from deploy.benches.live import steps
from deploy.benches.live.population import Population
from deploy.benches.live.system import LiveSystem
from deploy.benches.live.traffic import Traffic
from deploy.benches.report import BenchResult
from store.base.errors import BrokerError, ConfigError

DRAIN_SECONDS = 4 * 3600.0


class Size(NamedTuple):
    """users, and events of each on average."""

    users: int
    events: int
    scenarios: int


def run(
    *,
    brief: bool,
    users: int | None = None,
    events: int = 89,
    scenarios: int = 2,
    broker: str = "local",
) -> BenchResult:
    """Measure 9,000 users of 89 events each on average (`brief`: 900 users).

    Args:
        broker: `local` (Java, Maven), or `embedded`.

    Raises:
        ConfigError: an option is out of its range. BenchError: events were lost or doubled.
    """
    size = Size((900 if brief else 9000) if users is None else users, events, scenarios)
    if not 1 <= scenarios <= len(QUERIES):
        raise ConfigError(f"--scenarios {scenarios}", action=f"1 to {len(QUERIES)}")
    folder = Path(tempfile.mkdtemp(prefix="anchorstream-bench-"))
    try:
        with LiveSystem(folder, broker=broker, scenarios=dict(list(QUERIES.items())[:scenarios])) as system:
            return _measure(system, size)
    except BrokerError as exc:
        if exc.code not in ("java_missing", "maven_missing"):
            raise
        return BenchResult([{"case": "replay", "step": f"not measured: {exc.detail}"}])
    finally:
        shutil.rmtree(folder)


def _measure(system: LiveSystem, size: Size) -> BenchResult:
    population = Population(size.users, size.events, now_ms=time.time_ns() // 1_000_000)
    specs = system.topics.specs(system.settings.modalities, system.settings.scenarios)
    traffic = Traffic(system.launcher.connection, specs, population)
    history = population.history()
    computed = size.users * size.scenarios
    output.note(f"{len(history):,} events of {size.users:,} users …")

    begun, at = time.monotonic(), _ends(system)
    traffic.send(history)
    published = time.monotonic() - begun
    applied = system.wait_lag("processor", DRAIN_SECONDS) - begun
    system.drain(DRAIN_SECONDS)
    queryable = time.monotonic() - begun
    replay_records = _records(system, at)
    system.account(traffic.sent)
    rows: list[dict[str, Any]] = [
        {"step": "published", "seconds": published, "records per user": None},
        {"step": "events in `tokens`", "seconds": applied, "records per user": None},
        {"step": "all queryable", "seconds": queryable, "records per user": replay_records / computed},
    ]
    ratios = {"records_per_user": replay_records / computed, "events_per_second": traffic.sent / applied}
    if not system.launcher.connection.embedded:  # that has dropped most of `tokens`
        output.note(f"all queryable after {output.duration(queryable)}; the worker alone …")
        at = _ends(system)
        alone = _worker_alone(system)
        per_user = _records(system, at) / computed
        rows.append({"step": "worker alone", "seconds": alone, "records per user": per_user})
        ratios |= {"replay_vs_worker_alone": queryable / alone, "users_per_second": size.users / alone}
    case = {"events": traffic.sent, "users": size.users, "scenarios": size.scenarios}
    return BenchResult([{**case, **row} for row in rows], ratios)


def _worker_alone(system: LiveSystem) -> float:
    """Seconds from its start, which includes that of a process, until everybody is queryable again."""
    system.launcher.remove_role("worker-0")
    shutil.rmtree(system.launcher.data_dir / "worker")
    group = system.topics.group_worker
    admin = system.launcher.connection.admin()
    admin.delete_consumer_groups([group])[group].result(30)
    begun = time.monotonic()
    system.launcher.add_role("worker", 0)
    system.wait_ready()
    system.drain(DRAIN_SECONDS)
    return time.monotonic() - begun


def _ends(system: LiveSystem) -> dict[tuple[str, int], int]:
    return steps.ends(system.launcher.connection, system.topics, list(system.settings.scenarios))


def _records(system: LiveSystem, begins: dict[tuple[str, int], int]) -> int:
    """Embedding records published since then."""
    return steps.count_records(system.launcher.connection, system.topics, list(system.settings.scenarios), begins)
