"""What became of the events of one partition of `events`, by source and modality: each raw message once. Pure.

An event may be read again, after a crash of ingest or of the processor, and is a duplicate then; that is not what
became of it. So each source is counted up to a raw offset. This is exact since a source's events come in the order of
their offsets, again or not: before the first coming of one, all of the source's earlier ones have come
(docs/commit-protocol.md, "The account").

    account = msgpack [version, {source: [since, upto, {modality: {what: events}}]}]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import msgspec

from store.account.outcome import OUTCOMES, Outcome, Outcomes

VERSION = 1
_NOT_COUNTED = (0, 1 << 63)
"""since, upto: of a source of which nothing was counted yet; no event has such a high offset."""


class Sourced(Protocol):
    """What is asked of an event. since: when ingest began to count its source, ms; 0 = it does not."""

    @property
    def source(self) -> str: ...
    @property
    def source_offset(self) -> int: ...
    @property
    def since(self) -> int: ...


class RefusedEvent(NamedTuple):
    """One that the processor refused: it went to dead-letters, with this code."""

    source: str
    source_offset: int
    since: int
    modality: str
    code: str


class SourceAccount(msgspec.Struct, array_like=True, frozen=True):
    """Of one source. since: which count of ingest's this belongs to. upto: last raw offset counted.

    counts: by modality, then by Outcome, or by the code of a dead letter.
    """

    since: int
    upto: int
    counts: dict[str, dict[str, int]]


class Account:
    """Of one partition. Read-only."""

    def __init__(self, sources: Mapping[str, SourceAccount] | None = None) -> None:
        self.sources: Mapping[str, SourceAccount] = sources or {}

    @cached_property
    def packed(self) -> bytes:
        """Bytes in the database and in the log."""
        return _encode((VERSION, self.sources))

    @classmethod
    def unpack(cls, value: bytes | None) -> Account:
        """Inverse of `packed`; empty where there is none.

        Raises:
            ValueError: another version wrote it.
        """
        if value is None:
            return cls()
        version, sources = _decode(value)
        if version != VERSION:
            raise ValueError(f"account version {version}; this version reads {VERSION}")
        return cls(sources)

    def total(self) -> Counter[str]:
        """Events by what became of them."""
        total = Counter[str]()
        for source in self.sources.values():
            for counts in source.counts.values():
                total.update(counts)
        return total


class Tally:
    """What became of one modality's events of a batch.

    again: `id` of those that were counted before. outcomes: of all. counted: of the others, by source.
    """

    __slots__ = ("again", "counted", "outcomes")

    def __init__(self, again: set[int]) -> None:
        self.again = again
        self.outcomes: dict[Outcome, int] = {}
        self.counted: dict[Outcome, defaultdict[str, int]] = {outcome: defaultdict(int) for outcome in OUTCOMES}

    def add(self, event: Sourced, outcome: Outcome) -> None:
        """One event."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if id(event) not in self.again:
            self.counted[outcome][event.source] += 1


class AccountBatch:
    """One batch: which of its events are to be counted, and the account after it."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._upto: dict[str, list[int]] = {}  # since, upto
        self._again: set[int] = set()
        self._tallies: dict[str, Tally] = {}
        self._refused: list[RefusedEvent] = []

    def sort_out(self, events: Sequence[Sourced], refused: Iterable[RefusedEvent] = ()) -> None:
        """Find those that were counted before. Once, and before `tally`. Events in the order of their coming."""
        upto, again = self._upto, self._again
        refused = list(refused)
        anew = False
        for one in refused:
            at = self._at(one.source)
            if one.since > at[0]:
                at[:] = one.since, -1
        for event in events:
            source = event.source
            at = upto.get(source) or self._at(source)
            if event.since == at[0] and event.source_offset > at[1]:
                at[1] = event.source_offset
            elif event.since > at[0]:
                at[:] = event.since, event.source_offset
                anew = True
            else:
                again.add(id(event))
        if anew:
            again.update(id(event) for event in events if event.since < upto[event.source][0])
        seen: set[tuple[str, int]] = set()
        for one in refused:
            at, place = upto[one.source], (one.source, one.source_offset)
            known = self._account.sources.get(one.source)
            before = known.upto if known is not None and known.since == at[0] else -1
            if one.since == at[0] and one.since and one.source_offset > before and place not in seen:
                seen.add(place)
                self._refused.append(one)
                at[1] = max(at[1], one.source_offset)

    def tally(self, modality: str) -> Tally:
        """Where the outcomes of a modality's events are counted."""
        if (found := self._tallies.get(modality)) is None:
            found = self._tallies[modality] = Tally(self._again)
        return found

    def outcomes(self) -> Outcomes:
        """Of all events, those that were counted before among them."""
        total = Counter[Outcome]()
        for tally in self._tallies.values():
            total.update(tally.outcomes)
        return Outcomes.of(total)

    def account(self) -> Account | None:
        """After the batch; None if it is as before."""
        known = self._account.sources
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for source, (since, upto) in self._upto.items():
            before = known.get(source)
            if before is None or before.since != since:
                if since:
                    counts[source] = {}
            elif before.upto != upto:
                counts[source] = {modality: dict(of) for modality, of in before.counts.items()}
        for modality, tally in self._tallies.items():
            for outcome, by_source in tally.counted.items():
                for source, events in by_source.items():
                    of = counts[source].setdefault(modality, {})
                    of[outcome.value] = of.get(outcome.value, 0) + events
        for one in self._refused:
            of = counts[one.source].setdefault(one.modality, {})
            of[one.code] = of.get(one.code, 0) + 1
        if not counts:
            return None
        changed = {
            source: SourceAccount(since, upto, counts[source])
            for source, (since, upto) in self._upto.items()
            if source in counts
        }
        return Account({**known, **changed})

    def _at(self, source: str) -> list[int]:
        if (at := self._upto.get(source)) is None:
            known = self._account.sources.get(source)
            at = self._upto[source] = list(_NOT_COUNTED if known is None else (known.since, known.upto))
        return at


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, dict[str, SourceAccount]]).decode
