"""Reading the dead-letter topic: what was refused, why, its original bytes, and what of it was replayed since.

`stream/dead_letter.py` has the form of a letter, `stream/dead_letters/replay_marks.py` that of a mark.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from store.base.errors import NotFoundError
from stream.dead_letter import REPLAYED, DeadLetterHeaders, source_headers
from stream.dead_letters.replay_marks import LetterTable, Range, unpack_replay_mark
from stream.kafka.client import Connection
from stream.reading.whole_topic import WholeTopic


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """One dead letter. partition, offset: its own place in the dead-letter topic; at: when it was refused, epoch ms.

    source_*: where the raw message lay (None if a foreign producer wrote the letter without saying so).
    The rest is as in `DeadLetterHeaders`; headers: the raw message's own.
    """

    partition: int
    offset: int
    at: int
    error: str
    detail: str
    source_topic: str | None
    source_partition: int | None
    source_offset: int | None
    key: bytes | None
    value: bytes | None
    truncated: int | None = None
    source_timestamp: int | None = None
    key_truncated: int | None = None
    headers_left_out: int | None = None
    source_name: str | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def id(self) -> str:
        """`partition:offset`, as `dead-letters show` takes it."""
        return f"{self.partition}:{self.offset}"

    def matches(self, error: str | None, source_topic: str | None) -> bool:
        """Whether the letter has this code and came from this topic; None = any."""
        return error in (None, self.error) and source_topic in (None, self.source_topic)

    def to_dict(self, *, preview_bytes: int = 200) -> dict[str, Any]:
        """For `--json` and people: bytes as text where they are text, cut to `preview_bytes`."""
        return {
            "id": self.id,
            "at": self.at,
            "error": self.error,
            "detail": self.detail,
            "source": None
            if self.source_topic is None
            else f"{self.source_topic}:{self.source_partition}:{self.source_offset}",
            "produced_at": self.source_timestamp,
            "headers": [[name, preview(value, preview_bytes)] for name, value in self.headers],
            "bytes": self.truncated or (None if self.value is None else len(self.value)),
            "key": preview(self.key, preview_bytes),
            "value": preview(self.value, preview_bytes),
        }


class ReplayMark(NamedTuple):
    """Letters of this partition that were replayed: they came earlier."""

    partition: int
    ranges: list[Range]


class Listing(NamedTuple):
    """What `find` answers. letters: newest first unless asked otherwise, at most the limit. counts: of all that match,
    by error code; `total` is their sum. replayed: of these, by error code; replayed_ids: of the letters shown."""

    letters: list[RefusedEvent]
    counts: dict[str, int]
    total: int
    replayed: dict[str, int]
    replayed_ids: frozenset[str]


def preview(data: bytes | None, limit: int) -> str | None:
    """Bytes as printable text: UTF-8 where it is, `\\xNN` where not; cut to `limit` bytes with an ellipsis."""
    if data is None:
        return None
    text = data[:limit].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown + ("…" if len(data) > limit else "")


def find(
    connection: Connection,
    topic: str,
    *,
    error: str | None = None,
    source_topic: str | None = None,
    limit: int = 20,
    oldest_first: bool = False,
    on_progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> Listing:
    """Read the whole topic as it is now, and keep the newest (or oldest) letters that match.

    Memory: `limit` letters, and two bytes for each letter there is.

    Raises:
        NotFoundError: there is no such topic. BrokerError: the broker stopped answering.
    """
    counts: Counter[str] = Counter()
    kept: list[tuple[tuple[int, int, int], RefusedEvent]] = []
    table = LetterTable()
    sign = -1 if oldest_first else 1
    for letter in scan(connection, topic, on_progress=on_progress):
        if isinstance(letter, ReplayMark):
            table.mark(*letter)
            continue
        if not letter.matches(error, source_topic):
            continue
        counts[letter.error] += 1
        table.note(letter.partition, letter.offset, letter.error)
        # heap keys are unique by (partition, offset), so letters are never compared
        entry = ((sign * letter.at, sign * letter.partition, sign * letter.offset), letter)
        if len(kept) < limit:
            heapq.heappush(kept, entry)
        elif limit:
            heapq.heappushpop(kept, entry)
    letters = [letter for _, letter in sorted(kept, key=lambda entry: entry[0], reverse=True)]
    replayed = frozenset(letter.id for letter in letters if table.replayed(letter.partition, letter.offset))
    done = dict(table.replayed_counts().most_common())
    return Listing(letters, dict(counts.most_common()), sum(counts.values()), done, replayed)


def get(connection: Connection, topic: str, partition: int, offset: int) -> RefusedEvent:
    """One letter by its place.

    Raises:
        NotFoundError: there is none at that place. BrokerError: the broker stopped answering.
    """
    for letter in read(connection, topic, within={partition: (offset, offset + 1)}):
        return letter
    raise NotFoundError(
        f"no dead letter at {partition}:{offset} in {topic}", action="`anchorstream dead-letters list` shows the ids"
    )


def read(
    connection: Connection,
    topic: str,
    *,
    within: Mapping[int, tuple[int, int]] | None = None,
    on_progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> Iterator[RefusedEvent]:
    """The letters of `scan`, without the marks."""
    for found in scan(connection, topic, within=within, on_progress=on_progress):
        if isinstance(found, RefusedEvent):
            yield found


def scan(
    connection: Connection,
    topic: str,
    *,
    within: Mapping[int, tuple[int, int]] | None = None,
    on_progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> Iterator[RefusedEvent | ReplayMark]:
    """Every letter and mark from the oldest to the end as of now; in offset order within a partition.

    Args:
        within: partition → (first offset, end): just these. A part that is no longer there is passed over.
        on_progress: called with (messages read, messages there are).

    Raises:
        NotFoundError: there is no such topic. BrokerError: the broker stopped answering.
    """
    with WholeTopic(connection, topic, "anchorstream-dead-letters") as whole:
        for message in whole.messages(whole.spans(within), on_progress):
            yield _mark(message) or parse(message)


def parse(message: Any) -> RefusedEvent:
    """A message of the topic; what a foreign producer left out becomes empty or None."""
    return RefusedEvent(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple(source_headers(message.headers())),
        **DeadLetterHeaders.decode(message.headers())._asdict(),
    )


def _mark(message: Any) -> ReplayMark | None:
    if all(name != REPLAYED for name, _ in message.headers() or ()):
        return None
    ranges = unpack_replay_mark(message.value())
    return None if ranges is None else ReplayMark(message.partition(), ranges)
