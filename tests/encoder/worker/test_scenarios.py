"""The worker while scenarios come, change and go: stepped by hand on an embedded broker, killed after every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from encoder.model.settings import ModelSettings
from encoder.worker.worker import Worker
from store.base import fault, metrics
from store.base.settings import ScenarioSettings
from store.records.embedding import EmbeddingRecord
from stream.commit_metadata import without_waiting
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.hash_users import HashUsers
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source, register

PARTITIONS = 2
USERS = 12
SCENARIOS = {"churn": ScenarioSettings(query="Will this user leave?")}
RISK = ScenarioSettings(query="Will this user default?")
MODEL = ModelSettings(min_interval_ms=0, batch_tokens=64)
"""A quarter of the tokens is one user of a back-fill."""
STEPS = 2000
CRASHES = [(f"worker.{i}", 1) for i in range(1, 6)] + [
    ("back_fill.1", 1), ("back_fill.2", 1), ("back_fill.2", 4), ("back_fill.3", 3), ("back_fill.4", 3),
    ("back_fill.4", USERS), ("back_fill.5", 1),
]  # fmt: skip
"""(point, at which pass of it): docs/commit-protocol.md."""


class Died(BaseException):
    """Stands for kill -9."""


class Bench:
    """Lives of one worker, one after the other, on the same disk."""

    def __init__(self, connection: Connection, topics: Topics, folder: Path) -> None:
        self.connection, self.topics = connection, topics
        self.source = Source(connection, topics, folder / "source")
        self.folder = folder
        self.worker: Worker
        self.encoder: HashUsers

    def start(self, encoder: HashUsers, disk: str = "w", model: ModelSettings = MODEL) -> Worker:
        self.encoder = encoder
        self.worker = worker_bench.make_worker(
            self.connection, self.topics, encoder, self.folder / disk, scenarios=SCENARIOS, model=model
        )
        self.worker._attach(self.connection.consumer(self.topics.group_worker))
        self.assign()
        return self.worker

    @property
    def tps(self) -> list[TopicPartition]:
        return [TopicPartition(self.topics.tokens, p) for p in range(PARTITIONS)]

    def assign(self) -> None:
        self.worker._assigned(self.worker._consumer, self.tps)

    def stop(self) -> None:
        self.worker._detach()

    def die(self) -> None:
        """Nothing is committed; the databases are let go as the kernel would."""
        for assignment in self.worker._mine:
            assignment.buffer.close()
        self.worker._consumer.close()
        self.worker._scenarios.close()

    def done(self) -> bool:
        ends = [buffer.log_offset for buffer in self.source.buffers]
        return len(self.worker._scheduler) == 0 and all(
            a.ready and not a.back_fill.unfinished and a.buffer.log_offset == ends[a.partition] and a.due() is None
            for a in self.worker._mine
        )

    def step_until(self, true: Callable[[], bool]) -> None:
        for _ in range(STEPS):
            if true():
                return
            self.worker._step()
        pytest.fail(f"not within {STEPS} steps")

    def poll_until_marked(self) -> None:
        """Until a row has arrived; nothing is computed."""
        deadline = time.monotonic() + 30
        while not len(self.worker._scheduler):
            assert time.monotonic() < deadline
            self.worker._poll(0.05)

    def step_with(self, events: int) -> None:
        """Until all is done, with so many events arriving on the way."""
        for _ in range(STEPS):
            if not events and self.done():
                return
            self.worker._step()
            if events:
                self.source.send(1, users=USERS)
                events -= 1
        pytest.fail(f"not within {STEPS} steps")

    def has(self, name: str) -> Callable[[], bool]:
        return lambda: name in self.worker._scenarios.names

    def settle(self) -> None:
        self.step_until(self.done)

    def records(self, name: str) -> list[EmbeddingRecord]:
        return worker_bench.embeddings(self.connection, self.topics, [name])

    def check(self, names: Sequence[str], registration: int = 0) -> None:
        """Everybody has what a run from scratch gives, and the last record is the newest; as serve, read them."""
        expected = self.source.expected(self.encoder, names)
        for name in names:
            latest = {record.user_id: record for record in self.records(name)}
            assert latest.keys() == set(self.source.users)
            for user, record in latest.items():
                window = self.source.buffers[partition_of(user, PARTITIONS)].window(user)
                np.testing.assert_allclose(record.vector, expected[user, name], atol=1e-3)
                assert (record.covers, record.model) == (window.covers, self.encoder.model_id(name))
                assert record.scenario == name
                assert record.registration == (0 if name == "churn" else registration)
            worker_bench.commit_ends(self.connection, self.topics.group_serve, self.topics.embeddings(name), PARTITIONS)

    def back_filled(self, *names: str) -> list[str]:
        """Users computed by back-fills of exactly these scenarios."""
        return [user for users, scenarios in self.encoder.calls if scenarios == list(names) for user in users]


@pytest.fixture
def bench(start_embedded: Callable[[dict[str, int]], EmbeddedBroker], tmp_path: Path) -> Bench:
    topics = Topics(KafkaSettings(topic_prefix="w", partitions=PARTITIONS))
    names = ["churn", "risk", "churn@next", "risk@next"]
    connection = start_embedded({s.name: s.partitions for s in topics.specs(MODALITIES, names)}).connection
    return Bench(connection, topics, tmp_path)


@pytest.fixture
def filled(bench: Bench) -> Bench:
    """All users have `churn`."""
    bench.source.send(USERS, users=USERS)
    bench.start(HashUsers(SCENARIOS))
    bench.settle()
    bench.check(["churn"])
    bench.stop()
    return bench


def dying(monkeypatch: pytest.MonkeyPatch, point: str, nth: int) -> None:
    left = [nth]

    def at(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                raise Died(name)

    monkeypatch.setattr(fault, "point", at)


def test_a_registered_scenario_is_computed_for_everyone_and_told(filled: Bench) -> None:
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    before = metrics.BACK_FILLED_USERS.labels("risk")._value.get()
    register(filled.connection, filled.topics, "risk", RISK, life=77)
    filled.step_until(filled.has("risk"))
    filled.source.send(3, users=USERS)
    filled.settle()
    filled.check(["churn", "risk"], registration=77)
    assert sorted(filled.back_filled("risk")) == sorted(filled.source.users), "each once, and churn for nobody"
    assert metrics.BACK_FILLED_USERS.labels("risk")._value.get() == before + USERS
    assert metrics.BACK_FILL_USERS_LEFT.labels("risk")._value.get() == 0
    told = worker_bench.back_fills(filled.connection, filled.topics)
    for p in range(PARTITIONS):
        here = sum(partition_of(user, PARTITIONS) == p for user in filled.source.users)
        risk = told["risk", p]
        assert (risk.done, risk.total, risk.complete, risk.registration) == (here, here, True, 77)
        assert (risk.model, risk.revision, risk.error) == (filled.encoder.model_id("risk"), 1, "")
        assert told["churn", p].complete
    filled.stop()


def test_live_users_come_first(filled: Bench) -> None:
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    register(filled.connection, filled.topics, "risk", RISK)
    filled.step_until(lambda: len(filled.back_filled("risk")) == 3)
    filled.source.send_to("user-7")
    filled.poll_until_marked()
    assert len(filled.back_filled("risk")) < USERS, "in mid-back-fill"
    filled.encoder.calls.clear()
    filled.worker._step()
    assert filled.encoder.calls == [(["user-7"], ["churn", "risk"])]
    filled.settle()
    filled.check(["churn", "risk"], registration=1)
    filled.stop()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["query", "model"])
def test_a_crash_after_any_step_only_repeats_work(filled: Bench, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Users are back-filled once, but for the one whose step was cut short, and live updates lose nothing."""
    names = ["churn", "risk"]
    filled.start(HashUsers(SCENARIOS))
    for i, (point, nth) in enumerate(CRASHES):
        model = "m" if change == "query" else f"m{i}"
        done = metrics.BACK_FILLED_USERS.labels("risk")._value
        before = done.get()
        filled.stop()
        register(
            filled.connection, filled.topics, "risk", ScenarioSettings(query=f"q{i}" if change == "query" else "q")
        )
        filled.source.send(2, users=USERS)
        dying(monkeypatch, point, nth)
        filled.start(HashUsers(SCENARIOS, model=model))
        with pytest.raises(Died):
            filled.step_with(events=3 if point.startswith("worker") else 0)
        monkeypatch.undo()
        back_filled = filled.back_filled("risk")
        filled.die()
        filled.start(HashUsers(SCENARIOS, model=model))
        filled.settle()
        filled.check(names, registration=1)
        if change == "query":  # else live refreshes are of the same scenarios
            back_filled += filled.back_filled("risk")
            assert set(back_filled) == set(filled.source.users), point
            assert len(back_filled) <= USERS + 1, point
        # counted behind B4, of which one may have been the last
        assert USERS - 1 <= done.get() - before <= USERS, point
    filled.stop()
    filled.start(HashUsers(SCENARIOS, model=model))
    filled.settle()
    assert filled.encoder.calls == [], "nothing is left"
    filled.stop()


def test_a_partition_revoked_in_mid_back_fill_is_left_and_taken_up_again(filled: Bench) -> None:
    """What was computed for it is not published: its new owner may have gone on."""
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    register(filled.connection, filled.topics, "risk", RISK)
    filled.step_until(lambda: len(filled.back_filled("risk")) == 3)
    published = len(filled.records("risk"))
    filled.encoder.on_encode = lambda: filled.worker._revoked(filled.worker._consumer, filled.tps)
    filled.worker._step()
    filled.encoder.on_encode = lambda: None
    assert len(filled.back_filled("risk")) == 4
    assert len(filled.records("risk")) == published == 3
    filled.assign()
    filled.settle()
    filled.check(["churn", "risk"], registration=1)
    assert len(filled.back_filled("risk")) == USERS + 1
    filled.stop()


def test_a_partition_that_comes_back_while_a_batch_waits_is_not_published_from_behind(
    filled: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new replica may lack what another owner published meanwhile."""
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    filled.source.send_to("user-3")
    filled.poll_until_marked()
    poll = filled.worker._poll

    def rebalanced(seconds: float) -> None:
        filled.worker._revoked(filled.worker._consumer, filled.tps)
        filled.assign()
        monkeypatch.setattr(filled.worker, "_poll", poll)

    monkeypatch.setattr(filled.worker, "_poll", rebalanced)
    before = len(filled.records("churn"))
    filled.worker._step()
    assert len(filled.records("churn")) == before
    filled.settle()
    filled.check(["churn"])
    filled.stop()


def test_a_changed_query_replaces_and_a_retired_scenario_is_left_alone(filled: Bench) -> None:
    filled.start(HashUsers(SCENARIOS))
    register(filled.connection, filled.topics, "risk", RISK, life=5)
    filled.step_until(filled.has("risk"))
    filled.settle()
    first = filled.encoder.model_id("risk")
    register(filled.connection, filled.topics, "risk", ScenarioSettings(query="Will this user pay late?"), life=5)
    filled.step_until(lambda: filled.encoder.model_id("risk") != first)
    filled.settle()
    filled.check(["churn", "risk"], registration=5)
    assert len(filled.back_filled("risk")) == 2 * USERS
    register(filled.connection, filled.topics, "risk", None)
    filled.step_until(lambda: not filled.has("risk")())
    before = len(filled.records("risk"))
    filled.source.send(4, users=USERS)
    filled.settle()
    assert len(filled.records("risk")) == before
    assert {name for name, _ in worker_bench.back_fills(filled.connection, filled.topics)} == {"churn"}
    for metric in metrics.OF_SCENARIO["worker"]:
        assert "risk" not in {s.labels.get("scenario") for family in metric.collect() for s in family.samples}
    register(filled.connection, filled.topics, "risk", RISK, life=9)
    filled.step_until(filled.has("risk"))
    filled.settle()
    filled.check(["churn", "risk"], registration=9)
    filled.stop()


def test_a_scenario_retired_and_registered_while_nobody_worked_is_computed_anew(filled: Bench) -> None:
    """Its name and query are as before, but what lies in the topic is of its former life."""
    for life in (5, 9):
        register(filled.connection, filled.topics, "risk", RISK, life=life)
        filled.start(HashUsers(SCENARIOS))
        filled.settle()
        filled.check(["churn", "risk"], registration=life)
        assert len(filled.back_filled("risk")) == USERS
        filled.stop()
        register(filled.connection, filled.topics, "risk", None)


def test_a_scenario_that_cannot_be_computed_stops_nobody(filled: Bench) -> None:
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    register(filled.connection, filled.topics, "risk", ScenarioSettings(query="q", prompt="nowhere"), life=5)
    filled.step_until(lambda: "risk" in filled.worker._scenarios.unusable)
    filled.source.send(2, users=USERS)
    filled.settle()
    filled.check(["churn"])
    assert metrics.SCENARIO_UNUSABLE.labels("risk")._value.get() == 1
    for p in range(PARTITIONS):
        told = worker_bench.back_fills(filled.connection, filled.topics)["risk", p]
        assert (told.model, told.complete, told.registration) == ("", False, 5)
        assert told.error == "prompt_missing: no prompt 'nowhere'"
    register(filled.connection, filled.topics, "risk", RISK, life=5)
    filled.step_until(filled.has("risk"))
    filled.settle()
    filled.check(["churn", "risk"], registration=5)
    told = worker_bench.back_fills(filled.connection, filled.topics)["risk", 0]
    assert (told.error, told.complete) == ("", True)
    assert "risk" not in [sample.labels["scenario"] for sample in metrics.SCENARIO_UNUSABLE.collect()[0].samples]
    filled.stop()


def test_a_candidate_is_filled_beside_the_model(filled: Bench) -> None:
    filled.start(HashUsers(SCENARIOS, candidates=["next"]))
    filled.settle()
    filled.check(["churn", "churn@next"])
    assert filled.back_filled("churn") == [], "the model's own are there"
    assert sorted(filled.back_filled("churn@next")) == sorted(filled.source.users)
    filled.source.send(3, users=USERS)
    register(filled.connection, filled.topics, "risk", RISK, life=3)
    filled.step_until(filled.has("risk@next"))
    filled.settle()
    expected = filled.source.expected(filled.encoder, ["risk@next"])
    for record in filled.records("risk@next"):
        assert record.registration == 3
    assert {(r.user_id, r.scenario) for r in filled.records("risk@next")} == expected.keys()
    filled.stop()


def test_a_worker_without_its_disk_trusts_what_is_complete(filled: Bench) -> None:
    register(filled.connection, filled.topics, "risk", RISK)
    filled.start(HashUsers(SCENARIOS))
    filled.settle()
    filled.stop()
    filled.start(HashUsers(SCENARIOS), disk="another")
    filled.settle()
    assert filled.encoder.calls == []
    filled.check(["churn", "risk"], registration=1)
    filled.stop()


def test_standings_are_committed_before_anything_is_published(filled: Bench) -> None:
    """B1: a worker of another model that takes the partition over must not find its own work declared complete."""
    filled.start(HashUsers(SCENARIOS, model="other"))
    seen: list[Any] = []
    filled.encoder.on_encode = lambda: seen.append(worker_bench.committed(filled.connection, filled.topics))
    filled.source.send(1, users=USERS)
    filled.settle()
    expected = {0, 1}
    for found in seen:
        standings = {tp.partition: without_waiting(tp.metadata) for tp in found}
        assert standings.keys() == expected
        assert all(metadata and metadata != "" for metadata in standings.values())
    first = {tp.partition: without_waiting(tp.metadata) for tp in seen[0]}
    filled.stop()
    found = worker_bench.committed(filled.connection, filled.topics)
    last = {tp.partition: without_waiting(tp.metadata) for tp in found}
    assert all(first[p] != last[p] for p in expected), "under way, then complete"
