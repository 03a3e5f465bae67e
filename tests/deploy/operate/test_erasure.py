"""A null value erases its user, on both brokers: the whole way, from the raw topic to what is asked over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.operate.service_client import Service
from deploy.run.launcher import DRAIN_ORDER, Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import load
from store.base.errors import NotFoundError
from tests.conftest import need_kafka
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CONFIG = """
[kafka]
bootstrap_servers = "{bootstrap}"
partitions = 2
[modalities.bill]
topic = "bills"
text = "{{merchant}}"
[modalities.page]
topic = "pages"
text = "{{path}}"
[mapping.bills]
null_erases = true
[scenarios.churn]
query = "Will this user leave?"
[model]
threads = 1
[store]
data_dir = "{data_dir}"
[serve]
port = 0
"""
DAY_MS = 86_400_000


class System:
    """All roles, and who produces."""

    def __init__(self, up: Launcher) -> None:
        self._producer = up.connection.producer()
        assert up.url is not None
        self._service = Service(up.url)
        self.sent = 0

    def send(self, topic: str, user: str, at: int, value: dict[str, Any] | None) -> None:
        """at: event time, ms; of an erasure the message's."""
        body = None if value is None else json.dumps({"user_id": user, "ts": at, **value}).encode()
        kept = {"timestamp": at} if value is None else {}
        self._producer.produce(topic, body, key=user.encode(), **kept)
        assert self._producer.flush(60) == 0
        self.sent += 1

    def drained(self) -> None:
        """Everything sent is processed, and embedded."""
        wait_until(lambda: self._account()["applied"] + self._account()["expired"] == self.sent, "all is counted")
        wait_until(lambda: self._get("/v1/lag")["lag_messages"] == 0, "nothing is behind")

    def events_of(self, user: str) -> dict[str, int] | None:
        """What the user's embedding covers; None: there is none."""
        try:
            found: dict[str, int] = self._get(f"/v1/users/{user}/embeddings/churn")["events"]
        except NotFoundError:
            return None
        return found

    def _account(self) -> dict[str, int]:
        found = self._get("/v1/account")
        assert found["adds_up"]
        totals: dict[str, int] = found["totals"]
        return totals

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._service.get(path)
        return found


@pytest.mark.parametrize("bootstrap", ["embedded", pytest.param("local", marks=pytest.mark.kafka)])
def test_an_erased_user_is_gone_and_comes_back_by_newer_events_only(
    tmp_path: Path, spawn: Spawn, bootstrap: str
) -> None:
    if bootstrap == "local":
        need_kafka()
    config = tmp_path / "anchorstream.toml"
    config.write_text(CONFIG.format(bootstrap=bootstrap, data_dir=tmp_path / "data"))
    now = int(time.time() * 1000)
    with Launcher(load(config), roles=dict.fromkeys(DRAIN_ORDER, 1), spawn=spawn) as up:
        up.wait_ready(180)
        system = System(up)
        for user in ("u1", "u2"):
            for day in range(5, 1, -1):
                system.send("bills", user, now - day * DAY_MS, {"merchant": f"shop {day}"})
                system.send("pages", user, now - day * DAY_MS, {"path": f"/{day}"})
        system.drained()
        assert system.events_of("u1") == system.events_of("u2") == {"bill": 4, "page": 4}

        system.send("bills", "u1", now - DAY_MS, None)
        wait_until(lambda: system.events_of("u1") is None, "u1 is gone")
        system.drained()
        assert system.events_of("u2") == {"bill": 4, "page": 4}

        # what happened before it comes late, from the other topic too, and again
        system.send("pages", "u1", now - 2 * DAY_MS, {"path": "/late"})
        system.send("bills", "u1", now - 3 * DAY_MS, {"merchant": "late"})
        system.drained()
        assert system.events_of("u1") is None

        system.send("pages", "u1", now, {"path": "/new"})
        system.drained()
        assert system.events_of("u1") == {"page": 1}
