"""What a group has committed, asked and committed by who is no member of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from store.base import logs, metrics
from stream.kafka.client import Connection
from stream.kafka.patience import close_aside

LOST_SECONDS = 15.0
"""A coordinator that is being elected, on a busy broker, takes seconds."""
ASK_SECONDS = 0.5
RETRY_SECONDS = 2.0
log = logs.get(__name__)


class GroupClient:
    """For one thread.

    librdkafka 2.16 may lose sight of the coordinator, or of every broker, when connections break: questions then fail
    for good, and a commit is never answered. After LOST_SECONDS of that another client asks; once that one is answered,
    and the first one is not for as long again, it takes its place, which is logged as `client_replaced`.

    Args:
        on_commit: called from `poll` with the error or None, and the partitions, of each `commit`; once for each.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        on_commit: Callable[[Any, list[Any]], object] = lambda _error, _partitions: None,
        *,
        lost_seconds: float = LOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._group = group
        self._on_commit = on_commit
        self._lost_seconds = lost_seconds
        self._clock = clock
        self._unanswered: list[TopicPartition] = []
        self._failing_since: float | None = None
        self._asked: list[TopicPartition] = []
        self._look_at = 0.0
        self._spare: tuple[Any, threading.Event] | None = None
        self._spare_at = 0.0
        self._answered_at: float | None = None
        """Since when others are answered."""
        self._client, self._gone = self._make()

    @property
    def consumer(self) -> Any:
        """The confluent_kafka.Consumer of now, for other questions."""
        return self._client

    def committed(self, partitions: Sequence[TopicPartition], *, timeout: float) -> list[TopicPartition]:
        """Each partition's committed offset; may have errors of its own. Raises KafkaException: no answer."""
        self._asked = list(partitions)
        try:
            found: list[TopicPartition] = self._client.committed(self._asked, timeout=timeout)
        except KafkaException:
            self._failed()
            self._look()
            raise
        if not self._unanswered:
            self._well()
        return found

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Begin to commit; one at a time. Raises KafkaException."""
        self._client.commit(offsets=list(offsets), asynchronous=True)
        self._unanswered = self._asked = list(offsets)
        self._failed()  # until it is answered

    def commit_now(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit and wait for the answer, which has no time limit while the broker is away. Raises KafkaException."""
        self._client.commit(offsets=list(offsets), asynchronous=False)

    def poll(self) -> None:
        """Serve answers; does not wait, unless there have been none for long."""
        self._client.poll(0)
        self._look()

    def close(self) -> None:
        """Release the clients."""
        if self._spare is not None:
            close_aside(self._spare[0])
        self._client.close()

    def _make(self) -> tuple[Any, threading.Event]:
        """A client, and what is to be set when it is given up: its last answers come while it is closed."""
        gone = threading.Event()

        def answered(error: Any, partitions: list[Any]) -> None:
            if gone.is_set():
                return
            self._unanswered = []
            if error is None:
                self._well()
            self._on_commit(error, partitions or [])

        callback: Any = answered
        return self._connection.consumer(self._group, on_commit=callback), gone

    def _well(self) -> None:
        self._failing_since = self._answered_at = None

    def _failed(self) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock()

    def _look(self) -> None:
        now = self._clock()
        if self._failing_since is None or now < max(self._failing_since + self._lost_seconds, self._look_at):
            return
        self._look_at = now + RETRY_SECONDS
        if self._spare is not None and self._answered_at is None and now >= self._spare_at + self._lost_seconds:
            close_aside(self._spare[0])  # it may have come when there was no broker to be found
            self._spare = None
        if self._spare is None:
            self._spare, self._spare_at = self._make(), now
        try:
            places = [TopicPartition(tp.topic, tp.partition) for tp in self._asked]
            if any(tp.error is not None for tp in self._spare[0].committed(places, timeout=ASK_SECONDS)):
                return
        except KafkaException:
            return  # nobody is answered
        if self._answered_at is None:
            self._answered_at = now  # the broker has come back: the first one may find it too
        if now >= self._answered_at + self._lost_seconds:
            self._replace(self._spare, now - self._failing_since)

    def _replace(self, spare: tuple[Any, threading.Event], seconds: float) -> None:
        log.warning(
            logs.CLIENT_REPLACED,
            group=self._group,
            seconds=round(seconds, 1),
            detail="its questions and commits were not answered, another client's are",
        )
        metrics.CLIENTS_REPLACED.inc()
        self._gone.set()
        close_aside(self._client)
        (self._client, self._gone), self._spare = spare, None
        self._well()
        if unanswered := self._unanswered:
            self._unanswered = []
            self._on_commit(KafkaError(KafkaError._TIMED_OUT), unanswered)  # noqa: SLF001
