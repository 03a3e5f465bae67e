"""Ad-hoc queries on a broker, from serve's client to the worker's side and back, with a real encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch
from confluent_kafka import TopicPartition
from numpy.typing import NDArray
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from encoder.forward.user_encoder import Anchor, UserEncoder
from encoder.worker import embed_requests
from encoder.worker.embed_requests import AnchorEncoder, EmbedRequests
from store.base import metrics
from store.base.settings import ScenarioSettings
from store.records.embed_messages import SCENARIO, EmbedReply, EmbedRequest
from store.records.embedding import EmbeddingRecord
from store.window.user_window import UserWindow
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support.embedder import asking
from tests.support.windows import random_rows, window

PARTITIONS = 2
USERS = {f"user-{i}": window(f"user-{i}", random_rows(i, 5 + 7 * i)) for i in range(6)}
QUERY = "Is a baby on the way?"
LATER = 2**52


class Counting:
    """A real encoder that notes what it is asked to compute."""

    def __init__(self, encoder: UserEncoder) -> None:
        self._encoder = encoder
        self.users: list[list[str]] = []
        self.anchors = 0

    def anchor(self, scenario: ScenarioSettings) -> Anchor:
        self.anchors += 1
        return self._encoder.anchor(scenario)

    def encode_anchors(self, windows: Sequence[UserWindow], anchors: Sequence[Anchor]) -> NDArray[np.float32]:
        self.users.append([one.user_id for one in windows])
        return self._encoder.encode_anchors(windows, anchors)


class World:
    """Topics of their own on a broker, and a reader of all replies."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        ensure(connection, self.topics.specs({}, ()))
        self._producer = connection.producer(**{"linger.ms": 0})
        self._consumer = connection.consumer("serve", **{"fetch.wait.max.ms": 10})
        self._consumer.assign([TopicPartition(self.topics.embed_replies, 0, 0)])

    def send(self, *requests: EmbedRequest | bytes | None) -> None:
        for request in requests:
            value, partition = request, 0
            if isinstance(request, EmbedRequest):
                value, partition = request.pack(), partition_of(request.user_id, PARTITIONS)
            self._producer.produce(self.topics.embed_requests, value, partition=partition)
        assert self._producer.flush(10) == 0

    def replies(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> dict[str, EmbedReply]:
        """The next replies, but to probes."""
        out: dict[str, EmbedReply] = {}
        deadline = time.monotonic() + 30
        while len(out) < count:
            assert time.monotonic() < deadline, f"{len(out)} of {count} replies"
            meanwhile()
            if (reply := self._poll(0.005)) is not None:
                out[reply.id] = reply
        return out

    def no_reply(self) -> bool:
        deadline = time.monotonic() + 0.3
        return all(self._poll(0.1) is None for _ in iter(lambda: time.monotonic() < deadline, False))

    def _poll(self, seconds: float) -> EmbedReply | None:
        message = self._consumer.poll(seconds)
        if message is None:
            return None
        assert message.error() is None
        reply = EmbedReply.unpack(message.value())
        return None if reply.id.startswith("probe") else reply

    def close(self) -> None:
        self._consumer.close()


def windows_of(partition: int, user_id: str) -> UserWindow | None:
    assert partition == partition_of(user_id, PARTITIONS)
    return USERS.get(user_id)


def asked(name: str, user_id: str = "user-1", query: str = QUERY, expires_at: int = LATER) -> EmbedRequest:
    return EmbedRequest(name, user_id, query, None, expires_at)


def settled(side: EmbedRequests, partitions: Sequence[int], world: World) -> None:
    """Assign, and wait until the ends are known and nothing but what comes now is read."""
    side.assigned(partitions)
    users = {partition_of(user, PARTITIONS): user for user in USERS}
    for round_ in ("reading", "nothing left"):
        heard: set[str] = set()
        sent = 0
        deadline = time.monotonic() + 30
        while not heard >= {f"{round_} {p}" for p in partitions}:
            assert time.monotonic() < deadline
            if round_ == "reading" or not sent:
                world.send(
                    *(EmbedRequest(f"probe {sent} {p}", users[p], f"{round_} {p}", None, LATER) for p in partitions)
                )
                sent += 1
            side._receive()
            while side._queue:
                heard |= {one.request.query for one in side._queue.next_batch(0).requests}
            time.sleep(0.01)


def answer_until(side: EmbedRequests, encoder: UserEncoder | Counting, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        side.answer(windows_of, encoder, range(PARTITIONS))
        time.sleep(0.002)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def counted(outcome: str) -> float:
    value = metrics.EMBED_REQUESTS.labels(outcome)._value.get()
    assert isinstance(value, float)
    return value


@pytest.fixture
def world(shared_embedded_broker: EmbeddedBroker, topic_prefix: str) -> Iterator[World]:
    world = World(shared_embedded_broker.connection, topic_prefix)
    yield world
    world.close()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def either_world(request: pytest.FixtureRequest, topic_prefix: str) -> Iterator[World]:
    fixture = {"embedded": "shared_embedded_broker", "kafka": "kafka_broker"}[request.param]
    broker: EmbeddedBroker | LocalKafka = request.getfixturevalue(fixture)
    world = World(broker.connection, topic_prefix)
    yield world
    world.close()


@pytest.fixture
def side(world: World) -> Iterator[EmbedRequests]:
    side = EmbedRequests(world.connection, world.topics)
    settled(side, range(PARTITIONS), world)
    yield side
    side.close()


def test_an_answer_is_what_registering_the_query_would_give(
    world: World, side: EmbedRequests, tiny: UserEncoder
) -> None:
    queries = {"baby": ScenarioSettings(query=QUERY), "fox": ScenarioSettings(query="A 🦊?")}
    futures: dict[tuple[str, str], Future[EmbedReply]] = {}
    with asking(world.connection, world.topics) as client:
        for name, scenario in queries.items():
            for user in USERS:
                futures[name, user] = client.ask(user, scenario.query, None, 30_000)
        answer_until(side, tiny, lambda: all(future.done() for future in futures.values()))
    for name, scenario in queries.items():
        tiny.add_scenario(name, scenario)
    try:
        for (name, user), future in futures.items():
            record = future.result().record
            assert record is not None, future.result()
            assert (record.user_id, record.scenario, record.model) == (user, SCENARIO, tiny.model_id(name))
            one = USERS[user]
            assert (record.as_of, record.covers, record.events) == (one.as_of, one.covers, one.events)
            for vectors in (tiny.encode([one], [name]), tiny.encode_from_scratch([one], [name])):
                assert 1 - cosine(record.vector, vectors[0, 0]) < 1e-3
        # and another query gives another vector
        both = [futures[name, "user-5"].result().record for name in queries]
        assert both[0] is not None
        assert both[1] is not None
        assert cosine(both[0].vector, both[1].vector) < 0.999
    finally:
        for name in queries:
            tiny.remove_scenario(name)


def test_refusals(world: World, side: EmbedRequests, tiny: UserEncoder) -> None:
    windows: Mapping[str, UserWindow | None] = {
        "user-1": USERS["user-1"],
        "nobody": None,
        "erased": UserWindow("erased"),
    }
    before = {code: counted(code) for code in ("user_unknown", "prompt_missing", "answered")}
    world.send(
        asked("known"),
        asked("nobody", "nobody"),
        asked("erased", "erased"),
        EmbedRequest("prompt", "user-1", QUERY, "untuned", LATER),
    )
    deadline = time.monotonic() + 30
    while sum(counted(code) - n for code, n in before.items()) < 4:
        assert time.monotonic() < deadline
        side.answer(lambda _, user: windows[user], tiny, range(PARTITIONS))
    replies = world.replies(4)
    codes = {name: reply.error for name, reply in replies.items()}
    assert codes == {"known": "", "nobody": "user_unknown", "erased": "user_unknown", "prompt": "prompt_missing"}
    assert "untuned" in replies["prompt"].detail
    assert {code: counted(code) - n for code, n in before.items()} == {
        "user_unknown": 2, "prompt_missing": 1, "answered": 1,
    }  # fmt: skip


@pytest.mark.parametrize("usable", [(), (1,)])
def test_a_replica_that_is_behind_refuses_and_computes_nothing(
    world: World, side: EmbedRequests, tiny: UserEncoder, usable: tuple[int, ...]
) -> None:
    """And others answer meanwhile."""
    encoder = Counting(tiny)
    users = list(USERS)
    world.send(*(asked(f"r{i}", users[i % len(users)], f"query {i // 5}") for i in range(20)))
    replies = world.replies(20, lambda: side.answer(windows_of, encoder, usable))
    where = {f"r{i}": partition_of(users[i % len(users)], PARTITIONS) for i in range(20)}
    assert set(where.values()) == set(range(PARTITIONS))
    assert {name: reply.error for name, reply in replies.items()} == {
        name: "" if partition in usable else "restoring" for name, partition in where.items()
    }
    assert {partition_of(user, PARTITIONS) for batch in encoder.users for user in batch} == set(usable)


def test_what_nobody_waits_for_is_dropped_without_computing(
    world: World, side: EmbedRequests, tiny: UserEncoder
) -> None:
    encoder = Counting(tiny)
    before = counted("expired")
    world.send(asked("late", expires_at=time.time_ns() // 1_000_000 - 1), asked("in time", "user-1", "Other?"))
    answer_until(side, encoder, lambda: bool(encoder.users))
    assert list(world.replies(1)) == ["in time"]
    assert world.no_reply()
    assert encoder.users == [["user-1"]]
    assert counted("expired") - before == 1


def test_what_cannot_be_read_is_counted_and_stops_nothing(world: World, side: EmbedRequests, tiny: UserEncoder) -> None:
    before = counted("unreadable")
    bad = [b"\xff", b"", None, asked("long", query="x" * 2001).pack(), asked("empty", query="").pack()]
    with capture_logs() as lines:
        world.send(*bad, asked("good"))
        answer_until(side, tiny, lambda: counted("unreadable") - before == len(bad))
        # the good one may lie in the other partition
        assert {"good"} == set(_answered(world, side, tiny, 1))
    refused = [line for line in lines if line["event"] == "embed_request_refused"]
    assert len(refused) == len(bad)
    assert all(line["detail"] for line in refused)


def test_one_query_is_computed_together_and_a_user_once(
    world: World, side: EmbedRequests, tiny: UserEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Counting(tiny)
    received = side._receive
    monkeypatch.setattr(side, "_receive", lambda: None)
    users = [user for user in USERS if partition_of(user, PARTITIONS) == 0] * 2
    world.send(*(asked(f"{i} {user}", user) for i, user in enumerate(users)), asked("other", users[0], "Other?"))
    deadline = time.monotonic() + 30
    while len(side._queue) <= len(users):
        assert time.monotonic() < deadline
        received()
    while side.answer(windows_of, encoder, range(PARTITIONS)):
        assert time.monotonic() < deadline, "a step may end between two batches"
    assert [sorted(batch) for batch in encoder.users] == [sorted(set(users)), [users[0]]]
    assert encoder.anchors == 2
    for name, reply in world.replies(len(users) + 1).items():
        assert reply.record is not None
        assert name == "other" or name.endswith(reply.record.user_id)


def test_a_step_has_an_end(world: World, tiny: UserEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live refreshes get their turn: after STEP_SECONDS no further batch begins."""
    now = [0.0]
    side = EmbedRequests(world.connection, world.topics, clock=lambda: now[0])
    settled(side, range(PARTITIONS), world)
    encoder = Counting(tiny)
    computing = encoder.encode_anchors

    def slow(windows: Sequence[UserWindow], anchors: Sequence[Anchor]) -> NDArray[np.float32]:
        now[0] += embed_requests.STEP_SECONDS / 2
        return computing(windows, anchors)

    monkeypatch.setattr(encoder, "encode_anchors", slow)
    received = side._receive
    monkeypatch.setattr(side, "_receive", lambda: None)
    world.send(*(asked(f"r{i}", query=f"query {i}") for i in range(5)))
    deadline = time.monotonic() + 30
    while len(side._queue) < 5:
        assert time.monotonic() < deadline
        received()
    assert [side.answer(windows_of, encoder, range(PARTITIONS)) for _ in range(4)] == [3, 1, 0, 0]
    assert len(world.replies(5)) == 5
    side.close()


def test_more_than_may_wait_here_wait_on_the_broker(
    world: World, side: EmbedRequests, tiny: UserEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_requests, "MAX_WAITING", 3)
    world.send(*(asked(f"r{i}", query=f"query {i}") for i in range(12)))
    deadline = time.monotonic() + 30
    while len(side._queue) < 3:
        assert time.monotonic() < deadline
        side._receive()
    for _ in range(20):
        side._receive()
        assert len(side._queue) == 3
    assert len(_answered(world, side, tiny, 12)) == 12


def test_a_partition_is_read_from_its_end_and_left_at_once(either_world: World, tiny: UserEncoder) -> None:
    world = either_world
    side = EmbedRequests(world.connection, world.topics)
    users = {partition_of(user, PARTITIONS): user for user in USERS}
    world.send(asked("from before", users[0]))
    settled(side, [0], world)
    side.assigned([0])  # again: no effect
    world.send(asked("mine", users[0]), asked("another worker's", users[1]))
    assert list(_answered(world, side, tiny, 1)) == ["mine"]
    assert world.no_reply()
    world.send(asked("waits", users[0]))
    deadline = time.monotonic() + 30
    while not side._queue:
        assert time.monotonic() < deadline
        side._receive()
    side.revoked([0, 1])
    world.send(asked("the new owner's", users[0]))
    assert side.answer(windows_of, tiny, range(PARTITIONS)) == 0
    assert world.no_reply()
    settled(side, [1, 0], world)
    world.send(asked("mine again", users[0]), asked("mine too", users[1]))
    assert set(_answered(world, side, tiny, 2)) == {"mine again", "mine too"}, "which came after the new owner's"
    assert world.no_reply()
    side.close()


def test_a_request_survives_a_change_of_owner(either_world: World, tiny: UserEncoder) -> None:
    """Nobody answers what the old owner dropped and the new one did not see; it is sent once more in time."""
    world = either_world
    old, new = (EmbedRequests(world.connection, world.topics) for _ in range(2))
    settled(old, range(PARTITIONS), world)
    with asking(world.connection, world.topics) as client:
        future = client.ask("user-1", QUERY, None, 6_000)
        deadline = time.monotonic() + 30
        while not old._queue:
            assert time.monotonic() < deadline
            old._receive()
        old.revoked(range(PARTITIONS))
        new.assigned(range(PARTITIONS))
        answer_until(new, tiny, future.done)
        assert future.result().error == ""
    old.close()
    new.close()


def test_a_reply_that_cannot_be_sent_is_counted_and_stops_nothing(world: World, tiny: UserEncoder) -> None:
    small = replace(world.connection, properties={"message.max.bytes": 1000})
    side = EmbedRequests(small, world.topics)
    settled(side, range(PARTITIONS), world)
    before = metrics.EMBED_REPLIES_LOST._value.get()
    crowded = {f"{'t' * 240}{i}:0": i for i in range(5)}
    one = USERS["user-1"]
    first = next(iter(one.modalities))
    summary = one.modalities[first].summary._replace(covers=crowded)
    large = UserWindow("user-1", {**one.modalities, first: replace(one.modalities[first], summary=summary)})
    world.send(asked("large"), asked("small", "user-2", "Other?"))
    with capture_logs() as lines:
        deadline = time.monotonic() + 30
        while metrics.EMBED_REPLIES_LOST._value.get() == before:
            assert time.monotonic() < deadline
            side.answer(lambda _, user: large if user == "user-1" else USERS[user], tiny, range(PARTITIONS))
        replies = _answered(world, side, tiny, 1)
    assert list(replies) == ["small"]
    assert [line["event"] for line in lines].count("embed_reply_lost") == 1
    side.close()


def test_anchors_are_cached_and_bounded(world: World, tiny: UserEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_requests, "MAX_ANCHORS", 2)
    side = EmbedRequests(world.connection, world.topics)
    settled(side, range(PARTITIONS), world)
    encoder = Counting(tiny)
    computed = []
    for query in ("one?", "one?", "two?", "one?", "three?", "one?", "two?"):  # "two?" goes: "one?" was used after it
        world.send(asked(query, query=query))
        (reply,) = _answered(world, side, encoder, 1).values()
        assert reply.record is not None
        assert reply.record.model == tiny.anchor(ScenarioSettings(query=query)).id
        computed.append(encoder.anchors)
    assert computed == [1, 1, 2, 2, 3, 3, 4]
    side.close()


def test_a_soft_prompt_that_was_swapped_is_used_once_the_worker_says_so(
    world: World, side: EmbedRequests, tiny: UserEncoder
) -> None:
    tuned = ScenarioSettings(query=QUERY, prompt="tuned")
    hidden = tiny.model.backbone.hidden
    try:
        for value in (0.5, -0.5):
            tiny.set_prompt("tuned", torch.full((2, hidden), value))
            side.forget_anchors()
            world.send(EmbedRequest(f"{value}", "user-1", QUERY, "tuned", LATER))
            record = _answered(world, side, tiny, 1)[f"{value}"].record
            assert record is not None
            assert record.model == tiny.anchor(tuned).id
    finally:
        del tiny.model.prompts["tuned"]


def _answered(world: World, side: EmbedRequests, encoder: AnchorEncoder, count: int) -> dict[str, EmbedReply]:
    """Replies that come while the side is at work."""
    out = world.replies(count, lambda: side.answer(windows_of, encoder, range(PARTITIONS)))
    assert all(isinstance(reply.record, EmbeddingRecord) for reply in out.values())
    return out
