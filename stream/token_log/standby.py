"""A warm standby: buffers of partitions that other processors own, kept up to date from `tokens` (docs/adr/0009).

It follows every partition that its processor has not open. It reads like any other reader, judging writers by the rule
of stream/token_log/ownership.py, and writes nothing but its own disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from store.base import logs, metrics
from store.base.errors import AnchorstreamError
from store.buffer.token_buffer import TokenBuffer
from stream.kafka.client import Connection
from stream.reading.assigned_reader import AssignedReader
from stream.token_log.reader import LogReader
from stream.token_log.restore import restore

RETRY_SECONDS = 30.0
"""After a failure, until the partition is tried again."""
_ANSWER_SECONDS = 1.0
_POLL_SECONDS = 0.1
_POLL_ROWS = 1000
"""Few: the processor's own batches wait while they are applied."""
_NEVER = 1 << 62
"""Above every offset: nobody is marked dirty."""
_CONFIG: dict[str, Any] = {
    "auto.offset.reset": "error",  # a position that is lost while reading must not be skipped in silence
    "queued.max.messages.kbytes": 8 * 1024,
    "fetch.queue.backoff.ms": 50,
}

log = logs.get(__name__)


class Standby:
    """One thread of its own. `take`, `give` and `close` are for one other thread, which waits in them.

    A partition that cannot be followed is let go with a warning and tried again later: a take-over will say what is
    wrong with it, if it comes to that.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        partitions: Iterable[int],
        open_buffer: Callable[[int], TokenBuffer],
        *,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Start to follow.

        Args:
            topic: `tokens`.
            open_buffer: opens the buffer of a partition, in the directory that a take-over would open.
            on_failure: called in the thread, which then ends, with what must not happen.
        """
        self._connection = connection
        self._topic = topic
        self._open_buffer = open_buffer
        self._on_failure = on_failure
        self._behind: dict[int, TokenBuffer | None] = dict.fromkeys(partitions)  # to be caught up; None = to be opened
        self._retry_at: dict[int, float] = {}
        self._requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._asked = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self._thread.start()

    def take(self, partition: int) -> TokenBuffer | None:
        """Stop following a partition; its buffer, open, as far as it has come. None = it is not open."""
        buffer: TokenBuffer | None = self._ask(lambda: self._take(partition))
        return buffer

    def give(self, partition: int, buffer: TokenBuffer) -> None:
        """Follow a partition from now on, with this buffer."""
        self._ask(lambda: self._behind.__setitem__(partition, buffer))

    def close(self) -> None:
        """End the thread and close what it holds."""
        if self._thread.is_alive():
            self._ask(self._stop)
            self._thread.join()

    # In the caller's thread

    def _ask(self, work: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()
        self._requests.put((work, answer))
        self._asked.set()
        while True:
            try:
                return answer.result(_ANSWER_SECONDS)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise RuntimeError("the standby's thread has ended") from None

    # In the standby's thread

    def _run(self) -> None:
        consumer = AssignedReader(self._connection, f"{self._topic}.standby", **_CONFIG)
        self._consumer, self._reader = consumer, LogReader(consumer, self._topic)
        try:
            while self._answer():
                if (partition := self._due()) is not None:
                    self._catch_up(partition)
                elif self._reader.buffers:
                    self._follow()
        except Exception as exc:
            self._on_failure(exc)
            raise
        finally:
            for buffer in (*self._reader.buffers.values(), *self._behind.values()):
                if buffer is not None:
                    buffer.close()
            consumer.close()

    def _answer(self) -> bool:
        """Do what was asked, waiting for it where there is nothing else to do. Returns whether to go on."""
        busy = self._reader.buffers or self._due() is not None
        self._asked.clear()
        try:
            work, answer = self._requests.get(not busy, _POLL_SECONDS)
            while True:
                answer.set_result(work())
                work, answer = self._requests.get_nowait()
        except Empty:
            return not self._stopped

    def _due(self) -> int | None:
        """A partition to be opened or caught up now."""
        now = time.monotonic()
        return next((p for p in self._behind if self._retry_at.get(p, 0.0) <= now), None)

    def _catch_up(self, partition: int) -> None:
        buffer = self._behind[partition]
        try:
            if buffer is None:
                buffer = self._behind[partition] = self._open_buffer(partition)
            done = restore(self._connection, self._topic, partition, buffer, stop=self._asked, finish=False).complete
            if done:
                position = self._reader.add(partition, buffer, mark_from=_NEVER)
                self._consumer.incremental_assign([position])
                del self._behind[partition]
                metrics.STANDBY_PARTITIONS.set(len(self._reader.buffers))
                log.info(logs.STANDBY_FOLLOWS, partition=partition, log_offset=buffer.log_offset)
        except (AnchorstreamError, KafkaException) as exc:
            self._give_up(partition, exc)

    def _follow(self) -> None:
        try:
            polled = self._reader.poll(_POLL_ROWS, _POLL_SECONDS)
        except (AnchorstreamError, KafkaException) as exc:
            for partition in list(self._reader.buffers):
                self._behind[partition] = self._leave(partition)
                self._give_up(partition, exc)
            return
        metrics.STANDBY_ROWS.inc(polled.rows)

    def _take(self, partition: int) -> TokenBuffer | None:
        self._retry_at.pop(partition, None)
        if partition in self._behind:
            return self._behind.pop(partition)
        return self._leave(partition)

    def _leave(self, partition: int) -> TokenBuffer | None:
        buffer = self._reader.remove(partition)
        if buffer is not None:
            self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
            metrics.STANDBY_PARTITIONS.set(len(self._reader.buffers))
        return buffer

    def _give_up(self, partition: int, exc: Exception) -> None:
        """For now. The buffer is closed: after a failure only what is on disk is sure."""
        if (buffer := self._behind.get(partition)) is not None:
            self._reader.remove(partition)
            buffer.close()
        self._behind[partition] = None
        self._retry_at[partition] = time.monotonic() + RETRY_SECONDS
        log.warning(
            logs.STANDBY_FAILED,
            partition=partition,
            error=str(exc),
            action=getattr(exc, "action", "check that the broker answers"),
            retry_seconds=RETRY_SECONDS,
        )

    def _stop(self) -> None:
        self._stopped = True
