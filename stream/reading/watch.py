"""Whether a reader is given what the broker has: librdkafka may stop fetching without an error.

Known states of librdkafka 2.16: no broker is left, since metadata named none (a single Kafka that is being stopped
says so for some milliseconds; issue 5301); leader epochs that go back. Each is cured by a new client, none by waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from stream.kafka.client import Connection
from stream.kafka.client_log import throttling
from stream.reading.second_look import SecondLook
from stream.reading.stillness import Partition, Stillness

STILL_SECONDS = 20.0
"""Above what a client needs to find a broker that has come back: it tries again every ten seconds at the latest."""
LOOK_SECONDS = 2.0
ASK_SECONDS = 15.0
"""Between two second looks, at a reader that has nothing to do say."""


class ReadingWatch:
    """One reader's. For its thread; never waits.

    Args:
        still_seconds: how long a partition stands still before another client looks, and between two of its looks.
        clock: seconds, monotonic. held_back: whether the broker's quotas hold clients of this process back.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        *,
        still_seconds: float = STILL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        held_back: Callable[[], bool] = throttling.holds,
    ) -> None:
        self._clock = clock
        self._held_back = held_back
        # an embedded broker lives in a process of ours: it does not come back
        self._off = connection.embedded
        self._every = min(LOOK_SECONDS, still_seconds / 4)
        self._ask_every = min(ASK_SECONDS, still_seconds)
        self._stillness = Stillness(still_seconds)
        self._second = SecondLook(lambda: connection.reader(group, **{"enable.partition.eof": True}))
        self._look_at = self._ask_at = 0.0

    def look(self, positions: Callable[[], Mapping[Partition, int]]) -> dict[Partition, tuple[int, int]]:
        """Partitions of which another client is given a record that the reader was not: {partition: (position, end)}.

        Call it whenever the client had nothing to hand over.

        Args:
            positions: asked now and then: the next offset of everything that is read and not paused.
        """
        now = self._clock()
        if self._off or now < self._look_at:
            return {}
        self._look_at = now + self._every
        if self._held_back():
            self._stillness.look({}, now)  # it is given nothing by the broker's will; a new client is, once
            self._second.answer()
            return {}
        still = self._stillness.look(positions(), now)
        answer = self._second.answer()
        if answer and (stuck := {p: of for p, of in answer.items() if still.get(p) == of[0]}):
            return stuck
        if still and now >= self._ask_at:
            self._ask_at = now + self._ask_every
            self._second.ask(still)
        return {}

    def close(self) -> None:
        """Release the second client."""
        self._second.close()


def positions_of(consumer: Any, starts: Mapping[Partition, int]) -> dict[Partition, int]:
    """Next offset of each partition in `starts`: where it was begun, if nothing has come of it. A logical start (the
    end, say) that nothing has come of is left out."""
    from confluent_kafka import TopicPartition

    found = {}
    for tp in consumer.position([TopicPartition(*partition) for partition in starts]):
        at = tp.offset if tp.offset >= 0 else starts[tp.topic, tp.partition]
        if at >= 0:
            found[tp.topic, tp.partition] = at
    return found
