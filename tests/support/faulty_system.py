"""A running system that faults are made beneath, judged by the table in docs/lag.md: what lag, doctor and logs say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.brokers.local import LocalKafka
from deploy.checks.finding import Level
from deploy.operate.doctor import CHECKS, bounded
from deploy.operate.service_client import Service, ServiceError
from deploy.run.launcher import DRAIN_ORDER, Launcher
from deploy.run.spawn import Spawn
from deploy.run.supervision import RestartPolicy
from deploy.run.supervisor import ChildEvent
from deploy.settings.config import Settings, load
from store.base import logs
from stream.topics import Topics
from tests.conftest import need_kafka
from tests.support import fault_table
from tests.support.fault_table import Row

SECONDS = 240.0
ROWS = fault_table.read()
OF_THIS_MACHINE = {"port", "device", "text encoder", "model"}
"""Findings that no fault of the running system changes."""
CONFIG = """
[kafka]
bootstrap_servers = "{bootstrap}"
partitions = 2
properties = {{"session.timeout.ms" = 8000}}
[modalities.bill]
topic = "bills"
text = "{{merchant}}"
[scenarios.churn]
query = "Will this user leave?"
[model]
threads = 1
[metrics]
lag_interval_seconds = 0.5
[store]
data_dir = "{data_dir}"
[serve]
port = 0
"""
LAG_SEEN = {logs.LAG_READABLE, logs.LAG_UNREADABLE}
LIBRARIES = {"librdkafka", "aiokafka"}


class AskingKafka(LocalKafka):
    """One that asks who may do what; without a rule everybody may."""

    def _server_properties(self) -> dict[str, str | int]:
        return {
            **super()._server_properties(),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }


class System:
    """All roles on a Kafka of their own. What dies stays dead until `revive`."""

    def __init__(self, folder: Path, kafka: AskingKafka, spawn: Spawn) -> None:
        self.kafka = kafka
        self.config = folder / "anchorstream.toml"
        self.config.write_text(CONFIG.format(bootstrap=kafka.connection.bootstrap, data_dir=folder / "data"))
        self.settings: Settings = load(self.config)
        self.topics = Topics(self.settings.kafka)
        self.events: list[ChildEvent] = []
        policy = RestartPolicy(first_delay_seconds=3600, max_delay_seconds=3600)
        self.up = Launcher(
            self.settings,
            roles=dict.fromkeys(DRAIN_ORDER, 1),
            policy=policy,
            on_event=self.events.append,
            spawn=spawn,
        )
        self.admin = kafka.connection.admin()
        self._numbers = count()
        self._seen: dict[str, int] = {}
        self._heard = 0

    # ---- doing --------------------------------------------------------------------------------------------------

    def produce(self, events: int = 20) -> None:
        producer = self.kafka.connection.producer()
        for n, _ in zip(self._numbers, range(events), strict=False):
            event = {"user_id": f"u{n % 7}", "ts": int(time.time() * 1000), "merchant": f"shop {n % 5}"}
            producer.produce("bills", json.dumps(event).encode(), key=f"u{n % 7}".encode())
        assert producer.flush(60) == 0

    def revive(self, role: str) -> None:
        self.up.remove_role(f"{role}-0")
        self.up.add_role(role, 0)
        until(lambda: self.ready(role), f"{role} is ready")

    def ready(self, role: str) -> bool:
        from deploy.run.ready import is_ready, ready_path

        pid = self.up.pids().get(f"{role}-0")
        return pid is not None and is_ready(ready_path(self.settings.store.data_dir, role), pid)

    def healthy(self) -> None:
        """Everything that was produced has travelled the whole way, and nothing is wrong any more."""
        until(lambda: self._all_ok(self.lag()), lambda: f"healthy: {self.lag()}")
        ended = [role for role in DRAIN_ORDER if f"{role}-0" not in self.up.pids()]
        assert not ended, f"ended by a fault, not brought back by its mending: {ended}"
        until(self._monitor_sees_all, "monitor: lag_readable")  # it says a fault once

    def _monitor_sees_all(self) -> bool:
        said = [line["event"] for line in json_lines((self.up.log_dir / "monitor.log").read_text())]
        return next((event == logs.LAG_READABLE for event in reversed(said) if event in LAG_SEEN), True)

    def _all_ok(self, report: dict[str, Any]) -> bool:
        whole = not (report.get("missing_topics") or report.get("unreadable"))
        return report.get("status") == "ok" and report.get("lag_messages") == 0 and whole

    # ---- looking ------------------------------------------------------------------------------------------------

    def lag(self) -> dict[str, Any]:
        """`GET /v1/lag`, or the problem it ends in."""
        assert self.up.url is not None
        try:
            found: dict[str, Any] = Service(self.up.url).get("/v1/lag")
        except ServiceError as exc:
            return {"error": exc.code, "detail": exc.detail}
        return found

    def mark(self) -> None:
        """What is logged from now on is of the next fault."""
        self._seen = {path.name: path.stat().st_size for path in self.up.log_dir.glob("*.log")}
        self._heard = len(self.events)

    def written(self, role: str) -> str:
        path = self.up.log_dir / f"{role}.log"
        since = self._seen.get(path.name, 0)
        data = path.read_bytes()
        return data[since if since <= len(data) else 0 :].decode()

    def logged(self, role: str) -> list[dict[str, Any]]:
        return json_lines(self.written(role))

    def findings(self) -> dict[str, str]:
        """Of doctor, those that are not ok."""
        checks = [(name, check) for name, check in CHECKS if name not in OF_THIS_MACHINE]
        found = [bounded(name, lambda check=check: check(self.settings), 60) for name, check in checks]  # type: ignore[misc]
        return {finding.name: str(finding.level) for finding in found if finding.level is not Level.OK}

    def judge(self, row: Row, role: str, capsys: pytest.CaptureFixture[str]) -> None:
        """All cells of the row but the alert's."""
        until(lambda: self._says(row, role, self.lag()), lambda: f"{row.statuses}: {self.lag()}")
        capsys.readouterr()
        cli.run(["lag", "--json", "--config", str(self.config)])
        told = capsys.readouterr()
        # beside an error there may be lines of the client's
        by_command = json.loads(told.out) if told.out else next(e for e in json_lines(told.err) if "event" not in e)
        if "error" in row.statuses:
            assert by_command["error"] == row.statuses["error"]
        elif row.statuses[""] not in ("stalled", "slow"):  # which take longer than one reading
            assert self._says(row, role, by_command), by_command
        found = self.findings()
        if row.findings:  # a fault explains those after it
            assert next(iter(found.items()), None) == next(iter(row.findings.items()))
        else:
            assert found == {}
        for who, events in row.logged.items():
            for event in events:
                for name in DRAIN_ORDER if who == "all roles" else (who,):
                    until(lambda name=name, event=event: self._heard_of(name, event, role), f"{name}: {event}")  # type: ignore[misc]

    def _says(self, row: Row, role: str, report: dict[str, Any]) -> bool:
        if "error" in row.statuses:
            return bool(report.get("error") == "lag_unavailable")
        statuses = {group["role"]: group["status"] for group in report.get("groups", ())}
        # of a group that cannot be read there is no row: then it is the whole report's
        statuses[""] = statuses.get(role, report.get("status"))
        return all(statuses.get(of) == status for of, status in row.statuses.items())

    def _heard_of(self, who: str, event: str, role: str) -> bool:
        if event == fault_table.CLIENT:
            found = [line for line in self.logged(who) if line.get("logger", "").partition(".")[0] in LIBRARIES]
            assert len(found) < 60, f"{who}: not once a minute and cause"
            return any(line["level"] == "error" and "refused" in line["event"] for line in found) or any(
                "Connect call failed" in line["event"] for line in found
            )
        if who == "up":
            return any(e.kind == event and e.name == f"{role}-0" for e in self.events[self._heard :])
        if event.startswith("error "):
            code = event.removeprefix("error ")
            return any(line["event"] == "role_failed" and line["error"] == code for line in self.logged(who))
        found = [line for line in self.logged(who) if line["event"] == event]
        if event == "lag_status_changed":
            found = [line for line in found if line["group"].endswith(f".{role}") and line["now"] != "ok"]
        return bool(found)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what if isinstance(what, str) else what()}"
        time.sleep(0.2)


@pytest.fixture
def system(tmp_path: Path, spawn: Spawn) -> Iterator[System]:
    need_kafka()
    kafka = AskingKafka(tmp_path / "broker")
    system = System(tmp_path, kafka, spawn)
    try:
        with system.up:
            system.up.wait_ready(SECONDS)
            yield system
    finally:
        kafka.stop()


def each_is_said(
    system: System,
    faults: Mapping[str, Callable[[System], AbstractContextManager[str]]],
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    """Each fault, by its name in the table, is said as the table has it, and mended before the next.

    Args:
        faults: makes it, gives the role that it is about, and mends it.
    """
    for fault, doing in faults.items():
        with subtests.test(fault):
            system.healthy()
            system.mark()
            with doing(system) as role:
                system.judge(ROWS[fault], role, capsys)
