"""Ad-hoc queries through a whole worker: what serve would ask, answered between refreshes from the worker's replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from encoder.forward.model_set import ModelSet
from encoder.model.settings import ModelSettings
from encoder.worker.embed_requests import EmbedRequests
from encoder.worker.worker import Worker
from store.base.settings import ScenarioSettings
from store.records.embedding import EmbeddingRecord
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.serve.embed_client import EmbedClient
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.embedder import asking
from tests.support.windows import DIM, MODALITIES
from tests.support.worker_bench import Source, make_worker, wait_until

PARTITIONS = 2
QUERY = "Is a baby on the way?"
CONFIGURED = {"churn": ScenarioSettings(query="Will this user leave?")}
MODEL = ModelSettings(threads=1, min_interval_ms=0, kv_pool_bytes=8 << 20)


@pytest.fixture
def topics(topic_prefix: str) -> Topics:
    return Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=PARTITIONS))


@pytest.fixture
def connection(shared_embedded_broker: EmbeddedBroker, topics: Topics) -> Connection:
    ensure(shared_embedded_broker.connection, topics.specs(MODALITIES, [*CONFIGURED, "churn@next"]))
    return shared_embedded_broker.connection


def test_a_worker_answers_what_registering_the_query_gives(
    connection: Connection, topics: Topics, tmp_path: Path
) -> None:
    candidates = {"next": MODEL.model_copy(update={"seed": 1, "checkpoint": "none"})}
    encoder = ModelSet(MODEL, candidates, MODALITIES, CONFIGURED, DIM)
    source = Source(connection, topics, tmp_path / "source")
    source.send(30)

    def worker(ready: Callable[[], None]) -> Worker:
        return make_worker(
            connection, topics, encoder, tmp_path / "w", scenarios=CONFIGURED, model=MODEL, on_ready=ready,
            requests=EmbedRequests(connection, topics),
        )  # fmt: skip

    with asking(connection, topics) as client, worker_bench.running(worker):
        wait_until(lambda: worker_bench.lag_is_zero(connection, topics), "the worker caught up")
        answers = {user: answer(client, user) for user in source.users}
        assert client.ask("nobody", QUERY, None, 20_000).result(30).error == "user_unknown"
        assert client.ask("user-1", QUERY, "untuned", 20_000).result(30).error == "prompt_missing"
        # of what is new it tells as soon as the replica has it
        source.send_to("user-1")
        wait_until(lambda: worker_bench.lag_is_zero(connection, topics), "the worker caught up")
        answers["user-1"] = answer(client, "user-1")
        assert answers["user-1"].covers == {"raw:0": 30}
        # rows whose summary has not come are in no answer
        source.tear("user-1")
        wait_until(lambda: worker_bench.lag_is_zero(connection, topics), "the worker caught up")
        assert answer(client, "user-1").vector.tobytes() == answers["user-1"].vector.tobytes()

        worker_bench.register(connection, topics, "baby", ScenarioSettings(query=QUERY))
        wait_until(
            lambda: {r.user_id for r in worker_bench.embeddings(connection, topics, ["baby"])} == set(source.users),
            "everybody has an embedding of the scenario",
        )
        registered = {r.user_id: r for r in worker_bench.embeddings(connection, topics, ["baby"])}
    for user, record in answers.items():
        window = source.buffers[partition_of(user, PARTITIONS)].window(user)
        assert (record.covers, record.events, record.as_of) == (window.covers, window.events, window.as_of)
        # the model itself answers, not the candidate
        assert record.model == registered[user].model == encoder.model_id("baby") != encoder.model_id("baby@next")
        scratch = encoder.encode_from_scratch([window], ["baby"])[0, 0]
        for other in (registered[user].vector, scratch):
            assert 1 - cosine(record.vector, other) < 1e-3


def answer(client: EmbedClient, user: str) -> EmbeddingRecord:
    reply = client.ask(user, QUERY, None, 20_000).result(30)
    assert reply.record is not None, reply
    assert reply.record.user_id == user
    return reply.record


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
