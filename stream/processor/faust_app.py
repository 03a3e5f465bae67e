"""A thin adapter to Faust: group membership, assignment and consumption of one topic, in batches. Nothing else.

Faust acknowledges a batch in a `finally`, also after an exception, and its bookkeeping of acknowledged offsets can
run ahead of work in flight or crawl behind it. So its bookkeeping is not used: what is committed to Kafka is the
position the handler reports as durable, whatever Faust believes was acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AioKafkaConsumer
from faust.types import TP

from stream.kafka.client import EMBEDDED_FETCH_WAIT_MS, Connection
from stream.kafka.client_log import once_per_cause

COMMIT_INTERVAL_SECONDS = 0.5
FETCH_BYTES = 4 * 1024 * 1024
"""Most bytes of one partition in one fetch; several packs."""

LOOK_SECONDS = 0.1
"""Until messages of a partition that has become known are read, at most."""
_NONE = frozenset({TP("", -1)})


class Message(NamedTuple):
    """One consumed message."""

    partition: int
    offset: int
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Handler(Protocol):
    """What is done with what Faust consumes. All methods run in the event loop and may await."""

    async def process(self, messages: Sequence[Message]) -> None:
        """One batch, in order within each partition. Must not raise: Faust would go on with the next one."""
        ...

    async def assigned(self, partitions: Sequence[int]) -> None:
        """The member's partitions now. Messages of them may have come before this."""
        ...

    def assigning(self) -> None:
        """The group is about to give partitions; none of their messages have come yet."""
        ...

    def revoking(self) -> None:
        """A rebalance begins: what `process` does now holds it up. A batch that is given up comes again, to whoever has
        its partition then; no batch after it may be processed before `assigning`."""
        ...

    async def revoked(self, partitions: Sequence[int]) -> None:
        """These partitions go to another member, or the member stops; no batch is being processed."""
        ...

    def durable(self, partition: int) -> int | None:
        """Next offset to read after a crash at this instant; None = not known yet: nothing is read of the partition,
        and nothing committed."""
        ...


def create(
    group: str,
    topic: str,
    handler: Handler,
    connection: Connection,
    *,
    partitions: int,
    data_dir: Path,
    batch_messages: int,
    batch_wait_seconds: float,
    buffer_messages: int = 256,
) -> Any:
    """A faust.App with one agent on `topic`; call inside a running event loop, then `await app.start()`.

    Args:
        data_dir: Faust's own directory (it keeps nothing of ours).
        buffer_messages: fetched messages waiting; bounds memory together with the pack size.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    once_per_cause("aiokafka")
    app = faust.App(
        group,
        loop=asyncio.get_running_loop(),
        datadir=str(data_dir),
        store="memory://",
        autodiscover=False,
        processing_guarantee="at_least_once",
        topic_partitions=partitions,
        table_standby_replicas=0,
        broker_commit_interval=COMMIT_INTERVAL_SECONDS,
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=buffer_messages,
        stream_wait_empty=True,
        web_enabled=False,
        **connection.faust_options(),
    )
    app.finalize()
    app.transport.Consumer = _consumer_class(
        handler, topic, fetch_wait_ms=EMBEDDED_FETCH_WAIT_MS if connection.embedded else None
    )

    async def consume(stream: Any) -> None:
        async for events in stream.take_events(batch_messages, within=batch_wait_seconds or None):
            raw = [event.message for event in events]
            await handler.process([Message(m.partition, m.offset, m.value, m.headers or ()) for m in raw])

    source = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    app.agent(source, name=f"{group}.agent", concurrency=1)(consume)

    async def revoked(_app: Any, tps: Any, **_: Any) -> None:
        if gone := sorted({tp.partition for tp in tps if tp.topic == topic}):
            await handler.revoked(gone)

    async def assigned(_app: Any, tps: Any, **_: Any) -> None:
        await handler.assigned(sorted({tp.partition for tp in tps if tp.topic == topic}))

    app.on_partitions_revoked.connect(revoked, weak=False)
    app.on_partitions_assigned.connect(assigned, weak=False)
    return app


def _consumer_class(handler: Handler, topic: str, *, fetch_wait_ms: int | None) -> type[Any]:
    def known(tp: Any) -> bool:
        return tp.topic != topic or handler.durable(tp.partition) is not None

    class Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
        """Waits `fetch_wait_ms` for a fetch to find something; Faust itself always 1500 ms."""

        __module__ = AIOKafkaConsumerThread.__module__

        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            if fetch_wait_ms is not None:
                consumer._fetch_max_wait_ms = fetch_wait_ms  # noqa: SLF001
            return consumer

    class DurableConsumer(AioKafkaConsumer):  # type: ignore[misc]
        """Commits what is durable instead of what was acknowledged, reads nothing of partitions of which that is not
        known yet, and tells of a rebalance before Faust waits for the batch under way."""

        __module__ = AioKafkaConsumer.__module__  # whose logger it uses

        def _new_consumer_thread(self) -> Any:
            return Thread(self, loop=self.loop, beacon=self.beacon)

        async def on_partitions_revoked(self, revoked: Any) -> None:
            handler.revoking()
            await super().on_partitions_revoked(revoked)

        async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
            handler.assigning()
            await super().on_partitions_assigned(assigned, generation_id)

        async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109
            usable = {tp for tp in active_partitions if known(tp)}
            if len(usable) == len(active_partitions):
                return await super()._getmany(active_partitions, timeout)
            # to Faust and aiokafka none would be all
            return await super()._getmany(usable or _NONE, min(timeout, LOOK_SECONDS))

        def verify_event_path(self, now: float, tp: Any) -> None:
            if known(tp):  # else Faust complains that nothing of it is processed
                super().verify_event_path(now, tp)

        def _new_offset(self, tp: Any) -> int | None:
            acked = self._acked[tp]
            if not acked:
                return None
            end = handler.durable(tp.partition)
            if end is None:
                return None
            # Faust's own lists must not grow: forget what lies below
            acked[:] = [offset for offset in acked if offset >= end]
            self._acked_index[tp] = set(acked)
            self._gap[tp].chop(0, end)
            return end

    return DurableConsumer
