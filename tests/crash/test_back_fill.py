"""A scenario is registered while users change; the worker is killed in mid-back-fill, on real Kafka."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import OFFSET_END, TopicPartition

from deploy.operate.service_client import Service
from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from store.base import logs
from store.base.settings import ScenarioSettings
from store.records.back_fill import BackFillRecord
from tests.crash.reference import expected
from tests.crash.system import TIMEOUT, System, system
from tests.support.behaviour import DAY_MS, NOW, behaviour
from tests.support.worker_bench import read_topic

USERS = 300
PARTITIONS = 2
SMALL_BATCHES = "batch_tokens = 64\n"
"""One user in a batch of a back-fill, so that it takes seconds."""
QUERY = "Will this user default?"

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


def test_a_back_fill_goes_on_behind_its_cursor(
    tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder
) -> None:
    with system(tmp_path, spawn, further=SMALL_BATCHES) as s:
        s.send(behaviour(1, users=USERS, events=900).messages)
        s.wait_drained()
        live = behaviour(2, users=USERS, events=150, start_ms=NOW + DAY_MS, label="live").messages
        service = Service.find(s.settings, None)
        with s.sending(live, seconds=10):
            service.put("/v1/scenarios/risk", {"query": QUERY})
            until(lambda: done(service) > USERS // 5)
            s.launcher.kill("worker")
        until(lambda: back_fill(service).get("complete", False))
        s.wait_drained()
        s.check(texts, users)
        check_risk(s, texts, users, at_least=USERS * 9 // 10)
        check_progress(s)


def test_a_scenario_that_was_registered_and_retired_is_computed_for_everybody_once_it_is_configured(
    tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder
) -> None:
    """B10: all roles start on what its earlier life left of its topic."""
    with system(tmp_path, spawn) as s:
        s.send(behaviour(3, users=40, events=300).messages)
        s.wait_drained()
        service = Service.find(s.settings, None)
        service.put("/v1/scenarios/risk", {"query": QUERY})
        until(lambda: back_fill(service).get("complete", False))
        service.delete("/v1/scenarios/risk")
        s.wait_drained()
        topic = s.topics.embeddings("risk")
        ends = [TopicPartition(topic, p, OFFSET_END) for p in range(PARTITIONS)]
        admin = s.launcher.connection.admin()
        for answer in admin.delete_records(ends).values():  # as its age does within an hour
            assert answer.result(10).low_watermark > 0
        sent = s.sent
    with system(tmp_path, spawn, further=f'[scenarios.risk]\nquery = "{QUERY}"\n') as s:
        s.sent = sent
        service = Service.find(s.settings, None)
        until(lambda: back_fill(service).get("complete", False))
        s.wait_drained()
        check_risk(s, texts, users, at_least=30)


def back_fill(service: Service) -> dict[str, Any]:
    found = {entry["name"]: entry for entry in service.get("/v1/scenarios")["scenarios"]}
    return found["risk"]["back_fill"] or {}


def done(service: Service) -> int:
    found = back_fill(service)
    assert not found.get("complete"), "too fast to be killed"
    return int(found.get("done", 0))


def check_risk(s: System, texts: TextEncoder, users: UserEncoder, *, at_least: int) -> None:
    """Every user has it, as a run from scratch gives it."""
    users.add_scenario("risk", ScenarioSettings(query=QUERY))
    try:
        want = expected(s.settings, s.sent, texts, users)
        served = {record["user_id"]: record for record in Service.find(s.settings, None).embeddings("risk")}
        assert served.keys() == want.keys()
        assert len(want) >= at_least
        for user, e in want.items():
            (vector,) = users.encode_from_scratch([e.window.at(served[user]["as_of"])], ["risk"])[0]
            got = np.asarray(served[user]["vector"], np.float32)
            assert float(got @ vector / np.linalg.norm(got)) >= 0.9999, user
            assert served[user]["covers"].items() >= e.window.covers.items(), user
    finally:
        users.remove_scenario("risk")


def check_progress(s: System) -> None:
    """What was told of a partition never goes back: the second worker began where the first one was killed."""
    told: dict[int, list[BackFillRecord]] = defaultdict(list)
    for message in read_topic(s.launcher.connection, s.topics.back_fills, 1):
        if message.key().startswith(b"risk|") and message.value() is not None:
            record = BackFillRecord.unpack(message.value())
            told[record.partition].append(record)
    assert told.keys() == set(range(PARTITIONS))
    for partition, records in told.items():
        counts = [record.done for record in records]
        assert counts == sorted(counts), partition
        assert records[-1].complete
    started = [
        line
        for path in s.launcher.log_dir.glob("worker*.log*")
        for line in map(parsed, path.read_text().splitlines())
        if line.get("event") == logs.BACK_FILL_STARTED and line["scenario"] == "risk"
    ]
    resumed = [line["done"] for line in started]
    assert max(resumed) > 0, "a partition was taken up in the middle"
    assert all(0 <= line["done"] <= line["users"] for line in started)


def parsed(line: str) -> dict[str, Any]:
    return json.loads(line) if line.startswith("{") else {}


def until(true: Callable[[], bool], seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
