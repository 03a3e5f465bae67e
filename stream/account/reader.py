"""Reading the account from the broker; no role need run. The order matters: what processors have counted comes first,
then what ingest has, then where the topics end, so that each is in the next.

What `replay` had no raw topic for nobody counts: it is found in dead-letters, which are looked at once each.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from store.account.account import Account
from store.base.errors import BrokerError
from store.window.layout import marked_account
from stream.account.report import AccountReport, Place, ProcessedPartition, RawPartition, account
from stream.commit_metadata import decode
from stream.dead_letter import NO_PARTITION, DeadLetterHeaders
from stream.kafka.client import Connection
from stream.kafka.group_client import GroupClient
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.patience import patiently
from stream.lag.log_ends import LogEnds, Watermarks
from stream.raw_counts import read_counts
from stream.reading.whole_topic import WholeTopic
from stream.token_log.ownership import MARKER_KEY
from stream.topics import Topics

_CONFIG: dict[str, Any] = {
    "auto.offset.reset": "earliest",
    # one record is wanted, not what follows it
    "fetch.message.max.bytes": 128 * 1024,
    "queued.max.messages.kbytes": 1024,
}

_LOOK_SECONDS = 0.2
_OF_NO_TOPIC = ("source_partition", str(NO_PARTITION).encode())
LETTER_SECONDS = 3.0
"""Of one reading, for dead letters that were not yet looked at; the next one goes on."""


class AccountReader:
    """For one thread at a time. Close it.

    Args:
        raw_topics: the configured ones.
        timeout_seconds: longest wait for one answer of the broker.
    """

    def __init__(
        self, connection: Connection, topics: Topics, raw_topics: Collection[str], *, timeout_seconds: float = 10.0
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._raw = sorted(raw_topics)
        self._timeout = timeout_seconds
        self._admin = LastingAdmin(connection)
        self._ends = LogEnds(connection, self._admin, timeout_seconds=timeout_seconds)
        self._ingest = GroupClient(connection, topics.group_ingest)
        self._marks = GroupClient(connection, topics.group_account)
        self._markers = connection.reader(topics.group_account, **_CONFIG)
        self._letters: dict[int, int] = {}  # next offset by partition of dead-letters
        self._nowhere = Counter[str]()

    def close(self) -> None:
        """Release the clients."""
        self._ingest.close()
        self._marks.close()
        self._markers.close()

    def read(self) -> AccountReport:
        """What became of everything, as of now.

        Raises:
            BrokerError: the broker does not answer, or not completely.
        """
        try:
            report = self._read()
        except (KafkaException, TimeoutError) as exc:
            self._admin.failed(exc)
            why = exc.args[0].str() if isinstance(exc, KafkaException) else f"no answer in {self._timeout:g} s"
            raise BrokerError(
                f"the account cannot be read from {self._connection.bootstrap}: {why}",
                action="check that the broker runs (`anchorstream doctor`) and that this user may read the topics "
                "under kafka.topic_prefix, and describe its groups",
            ) from exc
        self._admin.answered()
        return report

    def settled(self, *, seconds: float) -> AccountReport:
        """The same once nothing is on its way any more, or after so long. Processors tell within about two seconds.

        Raises:
            BrokerError: as `read`.
        """
        deadline = time.monotonic() + seconds
        while not (report := self.read()).settled and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return report

    def _read(self) -> AccountReport:
        tokens, events, letters = self._topics.tokens, self._topics.events, self._topics.dead_letters
        found = self._ends.topics({*self._raw, tokens, events, letters})
        numbers = range(found.partitions.get(tokens, 0))
        told = {tp.partition: tp for tp in self._committed(self._marks, [(tokens, n) for n in numbers])}
        accounts = self._accounts({n: tp.offset for n, tp in told.items() if tp.offset >= 0})
        places = [(topic, n) for topic in self._raw for n in range(found.partitions.get(topic, 0))]
        committed = self._committed(self._ingest, places)
        others = {(topic, n) for topic in (events, letters) for n in range(found.partitions.get(topic, 0))}
        ends = self._ends.watermarks({*places, *others})
        raw: dict[Place, RawPartition] = {}
        for place, tp in zip(places, committed, strict=True):
            if place not in ends:
                raise KafkaException(_no_leader(place))
            raw[place] = _raw_partition(tp, found.ids, ends[place])
        processed = [self._processed(n, told[n], accounts.get(n), ends) for n in numbers]
        missing = {*self._raw, tokens, events, letters} - found.partitions.keys()
        unseen = self._look_at_letters({n: marks for (topic, n), marks in ends.items() if topic == letters})
        return account(
            raw,
            processed,
            at=time.time_ns() // 1_000_000,
            missing_topics=missing,
            nowhere=self._nowhere,
            unseen_letters=unseen,
        )

    def _look_at_letters(self, ends: Mapping[int, Watermarks]) -> int:
        """Count those of no raw topic, for a while; how many are left."""
        seen = self._letters
        for number, marks in ends.items():
            seen[number] = max(seen.get(number, 0), marks.start)
        new = {n: (seen[n], marks.end) for n, marks in ends.items() if seen[n] < marks.end}
        if not new:
            return 0
        deadline = time.monotonic() + LETTER_SECONDS
        with WholeTopic(self._connection, self._topics.dead_letters, "anchorstream-dead-letters") as whole:
            for message in whole.messages(whole.spans(new)):
                seen[message.partition()] = message.offset() + 1
                headers = message.headers() or ()
                if _OF_NO_TOPIC in headers:
                    self._nowhere[DeadLetterHeaders.decode(headers).error] += 1
                if time.monotonic() > deadline:
                    return sum(max(0, end - seen[n]) for n, (_, end) in new.items())
        seen.update({n: end for n, (_, end) in new.items()})
        return 0

    def _committed(self, client: GroupClient, places: Collection[Place]) -> list[Any]:
        """Their commits, in order."""
        if not places:
            return []
        client.poll()  # its log and errors wait there

        def ask() -> list[Any]:
            answer: list[Any] = client.committed([TopicPartition(*p) for p in places], timeout=self._timeout)
            if errors := [tp.error for tp in answer if tp.error is not None]:
                raise KafkaException(errors[0])
            return answer

        return patiently(ask, threading.Event(), seconds=self._timeout)

    def _accounts(self, offsets: Mapping[int, int]) -> dict[int, Account]:
        """The accounts at these offsets of `tokens`; where one was compacted away, the next one after it."""
        topic, consumer = self._topics.tokens, self._markers
        ends = self._ends.watermarks({(topic, n) for n in offsets})
        # of an emptied partition nothing comes, and its consumer never has a position
        begins = {n: max(offset, ends[topic, n].start) for n, offset in offsets.items()}
        left = {n: ends[topic, n].end for n, begin in begins.items() if begin < ends[topic, n].end}
        if not left:
            return {}
        found: dict[int, Account] = {}
        consumer.assign([TopicPartition(topic, n, begins[n]) for n in left])
        deadline = time.monotonic() + self._timeout
        try:
            while left:
                message = consumer.poll(0.1)
                if message is None:
                    done = [tp.partition for tp in consumer.position([TopicPartition(topic, n) for n in left])
                            if tp.offset >= left[tp.partition]]  # fmt: skip
                    if not done and time.monotonic() > deadline:
                        raise TimeoutError
                elif message.error() is not None:
                    raise KafkaException(message.error())
                else:
                    number = message.partition()
                    done = [number] if number in left and message.offset() >= left[number] - 1 else []
                    if number in left and message.key() == MARKER_KEY:
                        if (here := marked_account(message.value())) is not None:
                            found[number] = here
                        done = [number]
                if done:
                    left = {n: end for n, end in left.items() if n not in done}
                    consumer.incremental_unassign([TopicPartition(topic, n) for n in done])
        finally:
            consumer.unassign()
        return found

    def _processed(
        self, number: int, told: Any, found: Account | None, ends: Mapping[Place, Watermarks]
    ) -> ProcessedPartition:
        said = decode(told.metadata if told.offset >= 0 else None)
        end = ends.get((self._topics.events, number))
        users = said.get("users", "")
        return ProcessedPartition(
            found,
            int(said["events"]) if said.get("events", "").isdigit() else 0,
            0 if end is None else end.end,
            int(users) if users.isdigit() else None,
        )


def _raw_partition(tp: Any, ids: Mapping[str, str], ends: Watermarks) -> RawPartition:
    of = decode(tp.metadata).get("topic")
    if tp.offset < 0 or (of is not None and ids.get(tp.topic) and of != ids[tp.topic]):  # or of an earlier topic
        return RawPartition(None, None, ends.start, ends.end)
    return RawPartition(tp.offset, read_counts(tp.metadata), ends.start, ends.end)


def _no_leader(place: Place) -> Any:
    from confluent_kafka import KafkaError

    return KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{place[0]}:{place[1]} has no leader")
