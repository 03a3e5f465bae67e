"""The processor role: `events` → token buffer and its log. Faust consumes, one thread restores the partitions that were
given, and one, the batch thread, does everything else.

An exception in a batch ends the process at once, before anything of it is acknowledged: a supervisor starts it anew,
and it goes on from what is durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from store.base import disk, logs, pulse
from store.base.errors import AnchorstreamError, BrokerError
from store.base.stop import AnyOf, Stopped
from store.buffer.partition_buffers import PartitionBuffers
from stream.kafka.client import Connection
from stream.processor import faust_app
from stream.processor.batch_writer import BatchWriter
from stream.processor.encode_events import TextEncoder
from stream.processor.faust_app import Message
from stream.processor.openings import Openings
from stream.processor.partition import PartitionConfig
from stream.settings import ProcessorSettings
from stream.token_log.standby import Standby
from stream.topics import Topics

EXIT_BATCH_FAILED = 70
SWEEP_SECONDS = 1.0
"""How often leftovers of expiry are looked at when no batch does it."""
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1
log = logs.get(__name__)


class Processor:
    """One member of the processor group, with its own directory. Use once, in a process of its own: see `run`."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        settings: ProcessorSettings,
        encoder: TextEncoder,
        buffers: PartitionBuffers,
        *,
        wall_passes: bool = False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the clients; nothing is read yet.

        Args:
            wall_passes: time passes by the wall too, not by events alone.
            encoder: its vectors are what the buffers hold.
            buffers: of this instance alone; Faust's files lie beside them.
            on_ready: called once, when the first partitions that were assigned are open, from another thread.
        """
        self._connection = connection
        self._topics = topics
        self._settings = settings
        self._wall_passes = wall_passes
        self._on_ready: Callable[[], None] | None = on_ready
        self._encoder = encoder
        self._config = PartitionConfig(connection, topics, buffers)
        self._thread = ThreadPoolExecutor(1, "batch")
        self._app: Any = None
        self._revoked = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set. Blocks; runs an event loop in the calling thread.

        A failed batch ends the process with EXIT_BATCH_FAILED, without unwinding: nothing more is acknowledged.

        Raises:
            BrokerError: Faust could not start, or ended by itself.
        """
        self._stop = stop
        standby = self._standby() if self._settings.standby else None
        self._openings = Openings(self._config, standby, on_failure=_die)
        self._writer = BatchWriter(
            self._config,
            self._encoder,
            stop,
            group=self._topics.group_processor,
            openings=self._openings,
            wall_passes=self._wall_passes,
        )
        try:
            asyncio.run(self._consume())
        finally:
            self._thread.submit(self._writer.close).result()
            self._thread.shutdown()
            if standby is not None:
                standby.close()

    def _standby(self) -> Standby:
        return Standby(
            self._connection,
            self._topics.tokens,
            range(self._topics.partitions),
            self._config.buffers.open,
            on_failure=_die,
        )

    async def _consume(self) -> None:
        settings = self._settings
        app = self._app = faust_app.create(
            self._topics.group_processor,
            self._topics.events,
            self,
            self._connection,
            partitions=self._topics.partitions,
            data_dir=self._config.buffers.folder / "faust",
            batch_messages=settings.batch_messages,
            batch_wait_seconds=settings.batch_wait_seconds,
        )
        await app.start()
        swept_at = time.monotonic()
        beating = self._thread.submit(_or_die, self._beat)
        while not self._stop.is_set() and not app.should_stop:
            await asyncio.sleep(_POLL_SECONDS)
            if beating.done():  # both threads come round, or neither counts
                beating = self._thread.submit(_or_die, self._beat)
            if self._writer.sweep_left and time.monotonic() >= swept_at + SWEEP_SECONDS:
                await self._in_thread(self._writer.sweep)
                swept_at = time.monotonic()
        failed = not self._stop.is_set()
        self._stop.set()
        log.info(logs.ROLE_STOPPING)
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
        if failed:
            raise BrokerError(
                f"the consumer of {self._topics.events} ended by itself",
                action="see the errors above; the broker must be reachable and the group free",
            )

    def _beat(self) -> None:
        """In the batch thread."""
        pulse.beat()
        self._writer.say_caught_up()
        self._writer.say_time()
        self._writer.say_account()

    # faust_app.Handler: called in the event loop

    async def process(self, messages: Sequence[Message]) -> None:
        """Step 1, then 2 to 5 in the batch thread."""
        mine = self._mine()
        # left over from before a rebalance: another member has them now
        kept = [message for message in messages if message.partition in mine]
        revoked = self._revoked
        if kept and not self._stop.is_set() and not revoked.is_set():
            await self._in_thread(self._writer.apply, kept, revoked)

    async def assigned(self, partitions: Sequence[int]) -> None:
        """Open them: each is restored beside the batches of the others, and its messages wait on the broker."""
        seconds = round(self._writer.rebalance.given(), 3)
        log.info(logs.PARTITIONS_ASSIGNED, partitions=list(partitions), seconds=seconds)
        revoked = self._revoked
        if revoked.is_set():
            return  # this gift is over
        mine = sorted(self._mine() & set(partitions))  # another rebalance may have come before this handler

        def near(number: int) -> None:
            self._thread.submit(_or_die, self._writer.open, number, revoked)
            self._thread.submit(_or_die, self._say_ready, mine)

        closed = [number for number in mine if self._writer.durable(number) is None]
        self._openings.begin(closed, AnyOf(self._stop, revoked), near)
        if not closed:
            self._thread.submit(_or_die, self._say_ready, mine)

    def _say_ready(self, partitions: Sequence[int]) -> None:
        """In the batch thread, after one of them was to be opened."""
        opened = all(self._writer.durable(number) is not None for number in partitions)
        if self._on_ready is not None and opened:
            self._on_ready()
            self._on_ready = None

    def assigning(self) -> None:
        """From now on batches are processed again."""
        self._revoked = threading.Event()

    def revoking(self) -> None:
        """No partition is opened any more: a rebalance does not wait until a state is restored."""
        self._revoked.set()

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Close the buffers, so that another process may restore what they logged."""
        self._writer.rebalance.lost()
        log.info(logs.PARTITIONS_REVOKED, partitions=list(partitions))
        await self._in_thread(self._writer.close, partitions)

    def durable(self, partition: int) -> int | None:
        """Step 6."""
        return self._writer.durable(partition)

    def _mine(self) -> set[int]:
        """Partitions of `events` that the group has given to this member."""
        return {tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._topics.events}

    async def _in_thread(self, work: Callable[..., None], *args: Any) -> None:
        """If this is cancelled the thread goes on; `run` waits for it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, _or_die, work, *args)


def _or_die(work: Callable[..., None], *args: Any) -> None:
    try:
        work(*args)
    except Stopped:
        return
    except BaseException as exc:
        _die(exc)


def _die(exc: BaseException) -> None:
    exc = disk.refused(exc) or exc
    if isinstance(exc, AnchorstreamError):
        log.error(logs.BATCH_FAILED, code=exc.code, error=exc.detail, action=exc.action)
    else:
        log.error(logs.BATCH_FAILED, exc_info=exc)
    logging.shutdown()
    os._exit(EXIT_BATCH_FAILED)
