"""Which topic it is that has a name: a topic deleted and made anew has another id."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection

from stream.kafka.client import Connection
from stream.kafka.lasting_admin import LastingAdmin

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Between two looks."""
_NONE = "AAAAAAAAAAAAAAAAAAAAAA"
"""What a broker before Kafka 2.8 says."""


class TopicIds:
    """Asks the broker. For one thread. An embedded broker has no ids, and no way to delete a topic.

    missing: of the last answer, topics that do not exist.
    """

    def __init__(self, connection: Connection, *, without_denied: bool = False) -> None:
        """without_denied: a topic that this user may not see is taken for one that is not there."""
        self._absent = {KafkaError.UNKNOWN_TOPIC_OR_PART}
        if without_denied:
            self._absent.add(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        self._admin = None if connection.embedded else LastingAdmin(connection)
        self._asked: dict[str, Future[Any]] = {}
        self._look_at = 0.0
        self.missing: frozenset[str] = frozenset()

    def ask(self, topics: Iterable[str], *, timeout_s: float = ANSWER_SECONDS) -> dict[str, str]:
        """{topic: id}, without topics that are not there or have none.

        Raises:
            KafkaException: the broker does not answer, or does not tell.
        """
        if self._admin is None or not (names := sorted(set(topics))):
            return {}
        answers = self._admin.client.describe_topics(TopicCollection(names), request_timeout=timeout_s)
        return self._judge(answers, 2 * timeout_s)

    def look(self, topics: Iterable[str]) -> dict[str, str]:
        """The same without waiting, every LOOK_SECONDS: what was asked by an earlier call; {} while nothing is new.

        Raises:
            KafkaException: as `ask`.
        """
        if self._asked:
            if not all(answer.done() for answer in self._asked.values()):
                return {}
            asked, self._asked = self._asked, {}
            return self._judge(asked, 0)
        if self._admin is not None and time.monotonic() >= self._look_at and (names := sorted(set(topics))):
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._asked = self._admin.client.describe_topics(TopicCollection(names), request_timeout=ANSWER_SECONDS)
        return {}

    def close(self) -> None:
        """Wait for what was asked: an answer to a client that is gone may end the process."""
        for answer in self._asked.values():
            answer.exception(2 * ANSWER_SECONDS)
        self._asked = {}

    def _judge(self, answers: dict[str, Future[Any]], timeout_s: float) -> dict[str, str]:
        found: dict[str, str] = {}
        missing: set[str] = set()
        failure: BaseException | None = None
        for topic, answer in answers.items():
            try:
                id_ = str(answer.result(timeout_s).topic_id)
            except TimeoutError:
                failure = KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
            except KafkaException as exc:
                code = exc.args[0].code()
                if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    missing.add(topic)
                if code not in self._absent:
                    failure = exc
            else:
                if id_ != _NONE:
                    found[topic] = id_
        if self._admin is not None:
            self._admin.answered() if failure is None else self._admin.failed(failure)
        if failure is not None:
            raise failure
        self.missing = frozenset(missing)
        return found
