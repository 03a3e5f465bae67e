"""An admin client for as long as a role lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from store.base import logs, metrics
from stream.kafka.client import Connection

LOST_SECONDS = 15.0
"""Above what a client needs to find a broker that has come back."""
ASK_SECONDS = 1.0
RETRY_SECONDS = 5.0
log = logs.get(__name__)


class LastingAdmin:
    """Its user says how questions ended; once they were not answered for LOST_SECONDS, and for as long again while
    another client is, such a one takes its place, which is logged as `client_replaced`: librdkafka 2.16 may know no
    broker any more (stream/kafka/client.py), and no question is answered then. For one thread at a time.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        lost_seconds: float = LOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._lost_seconds = lost_seconds
        self._clock = clock
        self._failing_since: float | None = None
        self._answered_at: float | None = None
        """Since when others are answered."""
        self._look_at = 0.0
        self._lost: list[Any] = []
        self.client = connection.admin()
        """The confluent_kafka.admin.AdminClient of now."""

    def answered(self) -> None:
        """A question was answered, whatever the answer."""
        self._failing_since = self._answered_at = None

    def failed(self, failure: BaseException) -> None:
        """One ended so: by the broker's answer, or without one. May wait for ASK_SECONDS."""
        if isinstance(failure, KafkaException) and failure.args[0].code() > 0:
            self.answered()  # librdkafka's own errors are negative
            return
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if now < max(self._failing_since + self._lost_seconds, self._look_at):
            return
        self._look_at = now + RETRY_SECONDS
        spare = self._connection.admin()
        try:
            spare.list_topics(timeout=ASK_SECONDS)
        except KafkaException:
            self._answered_at = None
            return  # nobody is answered
        if self._answered_at is None:
            self._answered_at = now  # the broker has come back: the first one may find it too
        if now < self._answered_at + self._lost_seconds:
            return
        log.warning(
            logs.CLIENT_REPLACED,
            seconds=round(now - self._failing_since, 1),
            detail="the questions of an admin client were not answered, another one's are",
        )
        metrics.CLIENTS_REPLACED.inc()
        # kept: one that is collected with a question under way may bring the process down
        self._lost.append(self.client)
        self.client = spare
        self.answered()
