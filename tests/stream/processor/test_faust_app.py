"""What of Faust is set up otherwise than Faust would."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics
from stream.kafka.client import EMBEDDED_FETCH_WAIT_MS
from stream.processor import faust_app
from stream.topics import TopicSpec


class Nothing:
    """A handler that keeps nothing."""

    async def process(self, messages: Sequence[faust_app.Message]) -> None: ...

    async def assigned(self, partitions: Sequence[int]) -> None: ...

    def assigning(self) -> None: ...

    def revoking(self) -> None: ...

    async def revoked(self, partitions: Sequence[int]) -> None: ...

    def durable(self, partition: int) -> int | None:
        return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fetch_on_the_embedded_broker_does_not_wait_for_faust_s_1500_ms(
    shared_embedded_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path
) -> None:
    connection = shared_embedded_broker.connection
    topics.ensure(connection, [TopicSpec(topic_prefix, 1)])

    async def waits() -> int:
        app = faust_app.create(
            f"g-{topic_prefix}", topic_prefix, Nothing(), connection, partitions=1, data_dir=tmp_path,
            batch_messages=1, batch_wait_seconds=0.05,
        )  # fmt: skip
        await app.start()
        try:
            fetcher = app.consumer._thread._consumer._fetcher
            return int(fetcher._fetch_max_wait_ms)
        finally:
            await app.stop()

    assert asyncio.run(waits()) == EMBEDDED_FETCH_WAIT_MS
