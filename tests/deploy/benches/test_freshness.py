"""The freshness benchmark with tiny numbers: its report adds up, and it notices a loss. No time is judged."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.benches import freshness, report
from deploy.benches.live.population import Population
from deploy.benches.live.steps import STEPS
from deploy.benches.live.system import BenchError, LiveSystem
from deploy.benches.live.traffic import Traffic
from deploy.settings.config import paper_modalities
from store.base.errors import ConfigError
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.settings import IngestSettings

TINY: dict[str, Any] = {"users_per_second": 4, "seconds": 3, "scenarios": 2, "users": 8, "events": 15}
CLIENT, SERVE = "raw → HTTP answer", "raw → queryable"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "WARM_SECONDS", 1.0)
    monkeypatch.setattr(freshness, "QUIET_SECONDS", 3.0)


def check(found: report.BenchResult) -> None:
    rows = {(row["case"], row["step"]): row for row in found.rows}
    assert len(rows) == len(found.rows) == 2 * (len(STEPS) + 3)
    warm = int(freshness.WARM_SECONDS)
    for case, per_second, seconds in (("quiet", 1, int(freshness.QUIET_SECONDS)), ("load", 4, 3)):
        sent = per_second * seconds
        client, serve = rows[case, CLIENT], rows[case, SERVE]
        assert client["events"] == sent
        assert client["unanswered"] == 0
        assert serve["events"] == sent + per_second * warm
        assert {rows[case, step]["events"] for step in STEPS} == {sent}
        assert all(0 <= r["p50"] <= r["p99"] <= r["max"] for (c, _), r in rows.items() if c == case)
        # the steps are parts of the way, measured by other clocks, which count milliseconds
        assert max(rows[case, step]["max"] for step in STEPS) <= client["max"] + 0.002
    assert found.ratios["freshness_p50_seconds"] == rows["load", CLIENT]["p50"]
    assert found.ratios["p99_load_vs_quiet"] == rows["load", CLIENT]["p99"] / rows["quiet", CLIENT]["p99"]
    json.dumps(found.to_dict())


@pytest.mark.slow
@pytest.mark.usefixtures("short", "forked_roles")
def test_embedded() -> None:
    check(freshness.run(brief=True, broker="embedded", **TINY))


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.usefixtures("short", "forked_roles")
def test_real_kafka(kafka_broker: object) -> None:
    """`kafka_broker` only says whether Kafka can be started here; the benchmark starts its own."""
    check(freshness.run(brief=True, **TINY))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_roles")
def test_a_loss_is_noticed(tmp_path: Path) -> None:
    with LiveSystem(tmp_path, broker="embedded", scenarios={"churn": "Will this user stop coming?"}) as system:
        specs = system.topics.specs(system.settings.modalities, system.settings.scenarios)
        traffic = Traffic(system.launcher.connection, specs, Population(3, 5, now_ms=int(time.time() * 1000)))
        traffic.load_histories()
        system.drain()
        system.account(traffic.sent)
        with pytest.raises(BenchError, match="sent"):
            system.account(traffic.sent + 1)


def test_population() -> None:
    now_ms = 1_700_000_000_000
    people, again = (Population(30, 40, now_ms=now_ms, seed=3) for _ in range(2))
    history = people.history()
    assert history == again.history()
    assert [e.ts for e in history] == sorted(e.ts for e in history)
    assert {e.user_id for e in history} == set(people.users)
    assert all(now_ms - 60 * 86_400_000 <= e.ts < now_ms for e in history)
    assert len({e.event_id for e in history}) == len(history)
    judge = Validator(paper_modalities(), IngestSettings(), EventClock.of(IngestSettings(), paper_modalities()))
    accepted = [judge.validate(e.value, e.topic, 0, i, now_ms, now_ms) for i, e in enumerate(history)]
    assert [a.user_id for a in accepted if isinstance(a, Event)] == [e.user_id for e in history]
    visits = people.visits(10)
    for _ in range(20):
        assert len(set(islice(visits, 10))) == 10


@pytest.mark.parametrize(
    "options", [{"scenarios": 11}, {"scenarios": 0}, {"users_per_second": 601}, {"users_per_second": 0}, {"seconds": 0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--"):
        freshness.run(brief=False, **options)


def test_its_options_are_not_those_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "stream", "--seconds", "3"]) == 2
    assert "--seconds" in capsys.readouterr().err


def test_it_is_a_benchmark_and_its_parts_are_none() -> None:
    assert "freshness" in report.names()
    assert "live" not in report.names()
