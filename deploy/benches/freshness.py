"""Freshness, end to end: a raw event is produced → an answer over HTTP covers it, under a steady load of updates.

The whole system runs as separate processes on an Apache Kafka of its own, `tiny` on the CPU, with a population that has
histories (deploy/benches/live/population.py). Two loads are compared in one run: one user a second, and
`users_per_second` different users a second, one event each. Before each load serve is restarted, so that its own
figures (`GET /v1/lag`) are of this load alone, and a few seconds are sent that do not count. At the end every event
must have been applied once and every lag must be 0.

Rows, in seconds; `by` says whose clock:
  raw → HTTP answer    client: of the events asked for, see deploy/benches/live/traffic.py. The figure that is promised.
  raw → queryable      serve: of all events, in all scenarios, as `GET /v1/lag` reports it.
  the steps between    topics: of all events, from the topics' timestamps, see deploy/benches/live/steps.py.
  embedding → answer   client: the last step, of the events asked for.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy import output
from deploy.benches.live import steps
from deploy.benches.live.population import Population
from deploy.benches.live.system import BenchError, LiveSystem
from deploy.benches.live.traffic import Answer, Sent, Traffic
from deploy.benches.report import BenchResult
from store.base.errors import BrokerError, ConfigError

QUERIES = {
    "credit_risk": "Will this user fall behind on a repayment in the next month?",
    "coupon_response": "Will this user use a coupon in the next month?",
    "churn": "Will this user stop coming in the next month?",
    "campaign_response": "Will this user answer the campaign they have just received?",
    "spend_drop": "Will this user spend less than half as much next month?",
    "travel": "Is this user about to travel?",
    "upgrade": "Will this user buy a more expensive model next time?",
    "fraud": "Does this user behave unlike themselves?",
    "insurance": "Would this user insure something they own?",
    "new_channel": "Which channel will this user turn to next?",
}
"""The first are those of a new configuration file."""
ASKED_PER_SECOND = 10
WARM_SECONDS = 5.0
QUIET_SECONDS = 10.0
"""The load of one user a second lasts a fifth of the other's time, at least this long."""


class Size(NamedTuple):
    """users, events: population, and events of a history on average."""

    users_per_second: int
    seconds: float
    scenarios: int
    users: int
    events: int


def run(
    *,
    brief: bool,
    users_per_second: int = 50,
    seconds: float | None = None,
    scenarios: int = 4,
    users: int = 600,
    events: int = 300,
    broker: str = "local",
) -> BenchResult:
    """Measure, by default for five minutes (`brief`: 30 s).

    Args:
        users, events: population, and events of a history on average (`brief`: at most 200 and 100).
        broker: `local` (Java, Maven), or `embedded`.

    Raises:
        ConfigError: an option is out of its range. BenchError: events were lost or doubled, or answers did not come.
    """
    size = Size(users_per_second, (30.0 if brief else 300.0) if seconds is None else seconds, scenarios, users, events)
    if brief:
        size = size._replace(users=min(users, 200), events=min(events, 100))
    _check(size)
    folder = Path(tempfile.mkdtemp(prefix="anchorstream-bench-"))
    try:
        with LiveSystem(folder, broker=broker, scenarios=dict(list(QUERIES.items())[: size.scenarios])) as system:
            return _measure(system, size)
    except BrokerError as exc:
        if exc.code not in ("java_missing", "maven_missing"):
            raise
        return BenchResult([{"case": "freshness", "step": f"not measured: {exc.detail}"}])
    finally:
        shutil.rmtree(folder)


def _check(size: Size) -> None:
    if not 1 <= size.scenarios <= len(QUERIES):
        raise ConfigError(f"--scenarios {size.scenarios}", action=f"1 to {len(QUERIES)}")
    if not 1 <= size.users_per_second <= size.users:
        raise ConfigError(f"--users-per-second {size.users_per_second}", action=f"1 to {size.users}, the population")
    if size.seconds < 1:
        raise ConfigError(f"--seconds {size.seconds:g}", action="at least 1")


def _measure(system: LiveSystem, size: Size) -> BenchResult:
    population = Population(size.users, size.events, now_ms=time.time_ns() // 1_000_000)
    specs = system.topics.specs(system.settings.modalities, system.settings.scenarios)
    traffic = Traffic(system.launcher.connection, specs, population)
    output.note(f"histories of {size.users:,} users …")
    traffic.load_histories()
    system.drain()
    quiet = size._replace(users_per_second=1, seconds=max(QUIET_SECONDS, size.seconds / 5))
    idle, _ = _load(system, traffic, "quiet", quiet)
    busy, cores = _load(system, traffic, "load", size)
    system.account(traffic.sent)
    ratios = {
        "freshness_p50_seconds": busy[0]["p50"],
        "freshness_p99_seconds": busy[0]["p99"],
        "p50_load_vs_quiet": busy[0]["p50"] / idle[0]["p50"],
        "p99_load_vs_quiet": busy[0]["p99"] / idle[0]["p99"],
    }
    return BenchResult([*idle, *busy], ratios | {f"cores_{name}": value for name, value in cores.items()})


def _load(system: LiveSystem, traffic: Traffic, case: str, size: Size) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of one load, the promised figure first, and the CPU cores that each process used."""
    service, names = system.restart_serve(), list(system.settings.scenarios)
    connection, topics = system.launcher.connection, system.topics

    def send(seconds: float) -> tuple[list[Sent], list[Answer]]:
        return traffic.steady(
            service, names, users_per_second=size.users_per_second, seconds=seconds, asked_per_second=ASKED_PER_SECOND
        )

    output.note(f"{size.users_per_second} user(s) a second for {size.seconds:g} s …")
    warmed, _ = send(WARM_SECONDS)
    begins = steps.ends(connection, topics, names)
    used, started = system.cpu_seconds(), time.monotonic()
    sent, answers = send(size.seconds)
    elapsed = time.monotonic() - started
    cores = {name: (end - used[name]) / elapsed for name, end in system.cpu_seconds().items() if name in used}
    system.drain()
    served = service.get("/v1/lag")["freshness"]["all"]
    if served["count"] != len(warmed) + len(sent):
        raise BenchError(
            f"serve saw {served['count']:,} events become queryable, of {len(warmed) + len(sent):,} sent",
            action="a role that died meanwhile explains it; otherwise report this",
        )
    taken, computed = steps.seconds(connection, topics, names, sent, begins)
    last = [(a.answered_ms - computed[a.event_id]) / 1000 for a in answers]
    late = sum(not answer.covered for answer in answers)
    figures = ("p50", "p90", "p99", "max")
    rows = [
        _row("raw → HTTP answer", "client", [answer.seconds for answer in answers]) | {"unanswered": late},
        {"step": "raw → queryable", "by": "serve", "events": served["count"], **{f: served.get(f) for f in figures}},
        *(_row(step, "topics", values) for step, values in taken.items()),
        _row("embedding → HTTP answer", "client", last),
    ]
    return [{"case": case, "users_per_second": size.users_per_second, **row} for row in rows], cores


def _row(step: str, by: str, values: Sequence[float]) -> dict[str, Any]:
    p50, p90, p99 = (float(p) for p in np.percentile(np.asarray(values), (50, 90, 99)))
    return {"step": step, "by": by, "events": len(values), "p50": p50, "p90": p90, "p99": p99, "max": max(values)}
