"""Dead letters in the order of their sources, whatever their number: places in memory, values in portions.

The order is (source topic, partition, offset), so letters of one user come in the order the user's events had. A letter
that was written twice (ingest was killed before it committed) is one group.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.dead_letters.read import RefusedEvent, ReplayMark, read, scan
from stream.dead_letters.replay_marks import LetterTable
from stream.kafka.client import Connection

PORTION_BYTES = 32 * 1024 * 1024
"""Values held at once, at most by one letter more."""
LETTER_BYTES = 500
"""Of a letter beside its value, about."""

Place = tuple[int, int]
"""Partition and offset in the dead-letter topic."""


class Group(NamedTuple):
    """One refused message. letter: its first letter. places: of all its letters."""

    letter: RefusedEvent
    places: tuple[Place, ...]


class LetterOrder:
    """The letters that match, in source order.

    matched: messages, each counted once. replayed: of these, done before and left out.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self.matched = 0
        self.replayed = 0
        self._groups: list[slice] = []
        self._sources: list[tuple[str, int]] = []
        self._places: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._sizes: NDArray[np.int64] = np.empty(0, np.int64)

    @classmethod
    def read(
        cls,
        connection: Connection,
        topic: str,
        *,
        error: str | None = None,
        source_topic: str | None = None,
        again: bool = False,
        on_progress: Callable[[int, int], object] = lambda _done, _all: None,
    ) -> LetterOrder:
        """Read the topic once and keep places only: about 100 bytes a letter.

        Args:
            again: keep those too that were replayed before.

        Raises:
            NotFoundError: there is no such topic. BrokerError: the broker stopped answering.
        """
        order = cls(connection, topic)
        columns = _Columns()
        table = LetterTable()
        for found in scan(connection, topic, on_progress=on_progress):
            if isinstance(found, ReplayMark):
                table.mark(*found)
            elif found.matches(error, source_topic):
                table.note(found.partition, found.offset, found.error)
                columns.add(found)
        rows, bounds = columns.grouped()
        order._sources = columns.sources()
        order._places, order._sizes = rows[:, :2], rows[:, 2]
        order.matched = len(bounds) - 1
        for begin, end in pairwise(bounds):
            # one of two equal letters was marked: the message is done
            done = any(table.replayed(partition, offset) for partition, offset in order._places[begin:end].tolist())
            order.replayed += done
            if again or not done:
                order._groups.append(slice(begin, end))
        return order

    def __len__(self) -> int:
        """Groups that `groups` gives."""
        return len(self._groups)

    def sources(self) -> list[tuple[str, int]]:
        """Raw topics and partitions of what matched."""
        return self._sources

    def groups(self) -> Iterator[Group | None]:
        """In source order; None for a letter that has been removed from the topic since.

        Raises:
            BrokerError: the broker stopped answering.
        """
        portion: list[slice] = []
        held = 0
        for group in self._groups:
            portion.append(group)
            held += int(self._sizes[group.start]) + LETTER_BYTES
            if held > PORTION_BYTES:
                yield from self._fetch(portion)
                portion, held = [], 0
        if portion:
            yield from self._fetch(portion)

    def _fetch(self, portion: Sequence[slice]) -> Iterator[Group | None]:
        wanted: dict[Place, RefusedEvent | None] = {}
        within: dict[int, tuple[int, int]] = {}
        for group in portion:
            partition, offset = self._places[group.start].tolist()
            wanted[partition, offset] = None
            first, end = within.get(partition, (offset, 0))
            within[partition] = min(first, offset), max(end, offset + 1)
        for letter in read(self._connection, self._topic, within=within):
            if (place := (letter.partition, letter.offset)) in wanted:
                wanted[place] = letter
        for group in portion:
            places = [(partition, offset) for partition, offset in self._places[group].tolist()]
            found = wanted.pop(places[0])
            yield None if found is None else Group(found, tuple(places))


class _Columns:
    """What order and grouping need of each letter."""

    def __init__(self) -> None:
        self._topics: dict[str, int] = {}
        self._rows = array("q")

    def add(self, letter: RefusedEvent) -> None:
        topic = self._topics.setdefault(letter.source_topic or "", len(self._topics))
        # a topic that was made anew has other messages at the same places: equal letters have equal bytes
        content = blake2b(repr((letter.source_name, letter.key, letter.value)).encode(), digest_size=8).digest()
        partition, offset = letter.source_partition, letter.source_offset
        self._rows.extend(
            (
                letter.partition, letter.offset, len(letter.value or b""), topic,
                -1 if partition is None else partition, -1 if offset is None else offset,
                int.from_bytes(content, "big", signed=True),
            )
        )  # fmt: skip

    def sources(self) -> list[tuple[str, int]]:
        """Distinct source topics and partitions, without those that are not known."""
        topics = list(self._topics)
        pairs = np.unique(np.array(self._rows, np.int64).reshape(-1, 7)[:, 3:5], axis=0).tolist()
        return [(topics[topic], partition) for topic, partition in pairs if partition >= 0]

    def grouped(self) -> tuple[NDArray[np.int64], list[int]]:
        """Rows (partition, offset, bytes, …) in order, and where each group begins, with the end of the last."""
        rows = np.array(self._rows, np.int64).reshape(-1, 7)
        ranks = {topic: rank for rank, topic in enumerate(sorted(self._topics))}
        rank = np.array([ranks[topic] for topic in self._topics], np.int64)
        # the last key counts most; equal letters stand in the order they were written
        order = np.lexsort((rows[:, 1], rows[:, 0], rows[:, 6], rows[:, 5], rows[:, 4], rank[rows[:, 3]]))
        rows = rows[order]
        known = rows[:, 4] >= 0
        same = (rows[1:, 3:] == rows[:-1, 3:]).all(axis=1) & known[1:]
        starts = np.flatnonzero(np.concatenate(([True], ~same))) if len(rows) else np.empty(0, np.int64)
        return rows, [*starts.tolist(), len(rows)]
