"""What became of a raw partition's messages, from an offset on: in the metadata of ingest's committed offset. Pure.

Offset and counts are committed at once, so a message that is read again after a crash is in them once. Where an offset
has no counts (an older version's, or one that was set by another tool) they begin there, and `since` says when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from stream.commit_metadata import decode, encode

MAX_CHARS = 3500
"""Of the 4096 that a broker takes by default (`offset.metadata.max.bytes`); the clock needs up to about 450."""
OTHERS = "*"
"""Modalities that did not fit, as one."""
SINCE_HEADER = "since"
"""Of a message of `events`: `since` of each source of the pack, in its order, comma-separated; one where all are equal.
Whoever counts what became of the events (store/buffer/account.py) begins anew where it is newer."""


@dataclass(frozen=True, slots=True)
class RawCounts:
    """Counts of one raw partition. What is neither in them nor beyond the offset had no message in it.

    since: when they began, epoch ms; names them, too. begin: the offset they began at.
    accepted: events by modality. refused: dead letters by code. skipped: by reason, as the mapping says.
    passed_over: messages that a reset of the offset left out, those that were removed unread among them.
    """

    since: int
    begin: int
    accepted: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    passed_over: int = 0

    @property
    def messages(self) -> int:
        """How many messages are counted."""
        return sum(sum(of.values()) for of in (self.accepted, self.refused, self.skipped)) + self.passed_over

    def passing_over(self, messages: int) -> Self:
        """The same, and so many more that are not read."""
        return replace(self, passed_over=self.passed_over + messages)

    def fields(self, max_chars: int = MAX_CHARS) -> dict[str, str | int | None]:
        """Of a committed offset's metadata. Modalities with the fewest events become one where they would not fit."""
        accepted = dict(self.accepted)
        while len(encode(fields := self._fields(accepted))) > max_chars and accepted.keys() - {OTHERS}:
            smallest = sorted(accepted.keys() - {OTHERS}, key=lambda name: (accepted[name], name))
            for name in smallest[: max(1, len(smallest) // 8)]:
                accepted[OTHERS] = accepted.get(OTHERS, 0) + accepted.pop(name)
        return fields

    def _fields(self, accepted: Mapping[str, int]) -> dict[str, str | int | None]:
        return {
            "since": self.since,
            "begin": self.begin,
            "accepted": _packed(accepted),
            "refused": _packed(self.refused),
            "skipped": _packed(self.skipped),
            "passed": self.passed_over or None,
        }


def read_counts(metadata: str | None) -> RawCounts | None:
    """Counts in a committed offset's metadata; None where there are none."""
    found = decode(metadata)
    try:
        return RawCounts(
            int(found["since"]),
            int(found["begin"]),
            _unpacked(found.get("accepted", "")),
            _unpacked(found.get("refused", "")),
            _unpacked(found.get("skipped", "")),
            int(found.get("passed", 0)),
        )
    except (KeyError, ValueError):
        return None


def since_header(since: Sequence[int]) -> bytes:
    """Value of SINCE_HEADER."""
    return ",".join(map(str, since if len(set(since)) > 1 else since[:1])).encode()


def read_since(value: bytes | None, sources: int) -> list[int]:
    """Inverse of `since_header`, for so many sources; zeros where nothing is said, or not of each."""
    try:
        found = list(map(int, value.split(b","))) if value else []
    except ValueError:
        found = []
    if len(found) == 1:
        return found * sources
    return found if len(found) == sources else [0] * sources


class CountedPartition:
    """Counts while the messages are read: those that are decided, up to whatever offset is committed next.

    A message may be decided while an earlier one waits for a verdict; it is beyond the offset that is committed then.
    """

    def __init__(self, counts: RawCounts) -> None:
        self.since = counts.since
        self._begin = counts.begin
        self._passed_over = counts.passed_over
        self._accepted, self._refused, self._skipped = map(
            Counter[str], (counts.accepted, counts.refused, counts.skipped)
        )
        self._beyond: list[tuple[int, bool, str]] = []

    def accepted(self, modality: str, events: int) -> None:
        """So many more events. None is accepted while an earlier message waits."""
        self._accepted[modality] += events

    def refused(self, offset: int, code: str, *, waits: bool) -> None:
        """One more dead letter. waits: a message before it does."""
        self._decided(offset, True, code, waits)

    def skipped(self, offset: int, reason: str, *, waits: bool) -> None:
        """One more event that is skipped. waits: a message before it does."""
        self._decided(offset, False, reason, waits)

    def upto(self, next_offset: int) -> RawCounts:
        """Of all messages below `next_offset`, which is not lower than at the call before."""
        if self._beyond:
            beyond, self._beyond = self._beyond, []
            for decided in beyond:
                self._decided(*decided, waits=decided[0] >= next_offset)
        return RawCounts(
            self.since,
            self._begin,
            dict(self._accepted),
            dict(self._refused),
            dict(self._skipped),
            self._passed_over,
        )

    def _decided(self, offset: int, refused: bool, name: str, waits: bool) -> None:
        if waits:
            self._beyond.append((offset, refused, name))
        else:
            (self._refused if refused else self._skipped)[name] += 1


def _packed(counts: Mapping[str, int]) -> str | None:
    return "+".join(f"{name}:{count}" for name, count in counts.items()) or None


def _unpacked(text: str) -> dict[str, int]:
    pairs = (part.partition(":") for part in text.split("+") if part)
    return {name: int(count) for name, _, count in pairs}
