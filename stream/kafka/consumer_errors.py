"""Which consumer errors pass by themselves and which a person must hear of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from store.base import logs
from store.base.errors import BrokerError, DataLossError
from stream.kafka.positions import RESETTABLE, reset_command

LOG_INTERVAL_SECONDS = 60.0
_AUTO_OFFSET_RESET = -140
"""librdkafka's RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET: the position is gone and `auto.offset.reset` is `error`."""
_AUTHENTICATION = -169
_FATAL = frozenset(
    {
        _AUTHENTICATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
log = logs.get(__name__)


class UnreadTopics:
    """Topics that are missing or denied, for a role that goes on with the others: each is named once per interval.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, group: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._group = group
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._denied: dict[str, str] = {}
        self._missing: frozenset[str] = frozenset()

    def take(self, message: Any) -> bool:
        """Whether an error from a consumer says that its topic is denied; then it is until it is `read`."""
        topic, error = message.topic(), message.error()
        if topic is None or error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return False
        self._denied[topic] = error.str()
        return True

    def read(self, topic: str) -> None:
        """Something came of it."""
        if self._denied.pop(topic, None) is not None:
            self._said_at.pop(topic, None)

    def missing(self, topics: frozenset[str]) -> None:
        """These do not exist, all others do.

        A consumer is told of a deleted topic only while it reads it: not once its group has given it up.
        """
        for topic in self._missing - topics:
            self._said_at.pop(topic, None)
        self._missing = topics

    def say(self) -> None:
        """The client tells it once; a person may look an hour later."""
        for topic, why in self._denied.items():
            if self._due(topic):
                log.warning(
                    logs.TOPIC_DENIED,
                    topic=topic,
                    group=self._group,
                    error=why,
                    detail="it is not read, the others are; grant Read and Describe on it to this user",
                )
        for topic in sorted(self._missing):
            if self._due(topic):
                log.warning(
                    logs.TOPIC_MISSING,
                    topic=topic,
                    group=self._group,
                    detail="it does not exist, the others are read; once it is made it is read within seconds",
                )

    def _due(self, topic: str) -> bool:
        now = self._clock()
        due = now - self._said_at.get(topic, -LOG_INTERVAL_SECONDS) >= LOG_INTERVAL_SECONDS
        if due:
            self._said_at[topic] = now
        return due


class ConsumerErrors:
    """Raises what is final and logs the rest, each cause at most once per interval.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, group: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._group = group
        self._clock = clock
        self._logged_at: dict[tuple[str, int], float] = {}

    def judge(self, message: Any) -> None:
        """`message` came from a consumer and has an error.

        Raises:
            DataLossError: the next message to read was removed from the broker.
            BrokerError: access denied, or the client can no longer be used.
        """
        error = message.error()
        if error.code() == _AUTO_OFFSET_RESET:
            raise DataLossError(
                f"{message.topic()}:{message.partition()}: messages were removed before they were read: {error.str()}",
                action=reset_command(self._group)
                if self._group.rpartition(".")[2] in RESETTABLE
                else "nothing: at its next start the role finds out where it can go on, or says what is missing",
            )
        if error.fatal() or error.code() in _FATAL:
            where = f"{message.topic()}: " if message.topic() else ""
            raise BrokerError(
                f"{where}{error.str()}",
                action=f"check kafka.properties and the ACLs of the topics and of the group {self._group}",
            )
        self.passing(error, what="read")

    def passing(self, error: KafkaError, *, what: str) -> None:
        """The client retries this by itself."""
        now = self._clock()
        if now - self._logged_at.get((what, error.code()), -LOG_INTERVAL_SECONDS) >= LOG_INTERVAL_SECONDS:
            self._logged_at[what, error.code()] = now
            log.warning(logs.BROKER_UNAVAILABLE, what=what, group=self._group, error=error.str())
