"""`{prefix}.raw-topics`: which raw topics there were under a name, so that a place in one is never taken for another's.

A place in a raw topic is topic, partition and offset. Ids of events are derived from it, and `covers` of an embedding
counts by it. A topic that was deleted and made anew begins at 0 again, under the same name; so its places have a name
of their own: `topic#` and eight hex digits of its id. The first topic ever seen under a name keeps the name.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any, NamedTuple

import msgpack

from store.base import logs
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.reading.control_topic import ControlTopic
from stream.topics import Topics

VERSION = 1
FLUSH_SECONDS = 15.0
log = logs.get(__name__)


class RawTopic(NamedTuple):
    """Record of a topic's name: the id of the first topic seen under it, and of the one that is there."""

    first: str
    current: str

    def pack(self) -> bytes:
        """Bytes of the record."""
        return msgpack.packb((VERSION, *self))  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, value: bytes) -> RawTopic:
        """Inverse of `pack`. Raises ValueError."""
        try:
            version, first, current = msgpack.unpackb(value, use_list=False)
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            raise ValueError("not a raw topic's record") from exc
        if version != VERSION or not (isinstance(first, str) and isinstance(current, str)):
            raise ValueError(f"raw topic's record v{version}; this version reads v{VERSION}")
        return cls(first, current)


def source_name(topic: str, of: RawTopic) -> str:
    """What a topic is called in `covers` and in derived ids; at most 9 characters longer than the topic."""
    return topic if of.first == of.current else f"{topic}#{hashlib.sha256(of.current.encode()).hexdigest()[:8]}"


class RawTopics:
    """Reads the registry. For one thread, but `sources`, which is replaced, never changed.

    Args:
        group: names the reader to the broker.
    """

    def __init__(self, connection: Connection, topics: Topics, group: str) -> None:
        self.sources: dict[str, str] = {}
        """{topic: its name in `covers` and derived ids}; a topic that is not in it has its own."""
        self._connection = connection
        self._topic = topics.raw_topics
        self._known: dict[str, RawTopic] = {}
        self._reader = ControlTopic(connection, topics.raw_topics, group, self._apply)

    def load(self, stop: threading.Event) -> None:
        """Read to the end as of now; leaves early when `stop` is set. Raises BrokerError."""
        self._reader.load(stop)

    def poll(self) -> None:
        """Take in what has come, without waiting. Raises BrokerError."""
        self._reader.poll()

    def register(self, ids: dict[str, str], stop: threading.Event) -> None:
        """Make these the topics that are there; on return `sources` says so.

        Args:
            ids: {topic: id}.

        Raises:
            BrokerError: the broker does not answer, or did not take it.
        """
        if not ids:
            return
        self.load(stop)
        new = {
            topic: RawTopic(first=known.first if known else found, current=found)
            for topic, found in ids.items()
            if (known := self._known.get(topic)) is None or known.current != found
        }
        if not new or stop.is_set():
            return
        failures: list[Any] = []
        producer = self._connection.producer(**{"delivery.timeout.ms": int(FLUSH_SECONDS * 900)})
        for topic, record in new.items():
            producer.produce(
                self._topic, record.pack(), topic.encode(), 0, on_delivery=lambda error, _: failures.append(error)
            )
        left = producer.flush(FLUSH_SECONDS)
        failed = [error for error in failures if error is not None]
        if left or failed:
            raise BrokerError(
                f"{self._topic} was not written: {failed[0].str() if failed else 'no answer'}",
                action="check that the broker runs, and that this user may write to the topics under "
                "kafka.topic_prefix",
                code="delivery_failed",
            )
        for topic, record in new.items():
            if (before := self._known.get(topic)) is not None:
                log.warning(
                    logs.TOPIC_MADE_ANEW,
                    topic=topic,
                    topic_id=record.current,
                    before=before.current,
                    source=source_name(topic, record),
                    detail="it was deleted and made anew: what ingest had not read of the old one is gone; the new "
                    "one is read from its beginning",
                )
        self.load(stop)

    def close(self) -> None:
        """Release the consumer."""
        self._reader.close()

    def _apply(self, message: Any) -> None:
        try:
            topic = (message.key() or b"").decode()
            found = RawTopic.unpack(message.value() or b"")
        except ValueError as exc:
            log.warning(logs.RECORD_REFUSED, topic=self._topic, offset=message.offset(), detail=str(exc))
            return
        # two members may write the first record of a name at once: the first one counts
        known = self._known.get(topic)
        self._known[topic] = found = RawTopic(known.first if known is not None else found.first, found.current)
        self.sources = {**self.sources, topic: source_name(topic, found)}
