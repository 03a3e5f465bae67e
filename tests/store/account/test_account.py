"""The account of a partition equals that of a reference over distinct events, whatever comes again and whoever dies."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.account.account import VERSION, Account, AccountBatch, RefusedEvent, SourceAccount
from store.account.outcome import Outcome
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.layout import Schema, marked_account
from tests.models.buffer_model import BufferModel
from tests.models.events import DIM, GRANULARITY_MS, WINDOW_MS, event, modalities, open_buffer, resources

SHARED = resources()
SOURCES = ("r:0", "r:1", "s:0")
Totals = Counter[tuple[str, str, str]]
"""By source, modality and what became of the event."""


def totals(account: Account) -> Totals:
    return Counter(
        {
            (source, modality, what): n
            for source, of in account.sources.items()
            for modality, counts in of.counts.items()
            for what, n in counts.items()
        }
    )


class Raw:
    """Raw messages, and ingests that read them: each goes on at what was committed and sends in order, however late."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 1000
        self.messages: dict[str, list[EncodedEvent]] = {source: [] for source in SOURCES}
        self.committed = dict.fromkeys(SOURCES, 0)
        self.since = dict.fromkeys(SOURCES, 1)
        self.readers: dict[str, list[tuple[int, int]]] = {source: [(0, 1)] for source in SOURCES}
        self.sent: list[EncodedEvent] = []

    def produce(self) -> None:
        self.now += self.rng.choice((0, 0, 1, 5, 40))
        source = self.rng.choice(SOURCES)
        age, modality = self.rng.randrange(2 * WINDOW_MS), self.rng.choice("abt")
        number = self.rng.randrange(40)
        mine = self.messages[source]
        seen = [e for of in self.messages.values() for e in of if (e.modality, e.event_id) == (modality, f"e{number}")]
        if seen:  # another message of the same event
            made = self.rng.choice(seen)
        else:
            fields = (
                {f: self.rng.random() < 0.8 for f in "fgh"[: self.rng.randrange(1, 4)]} if modality == "t" else None
            )
            made = event(self.rng.choice("uv"), modality, max(0, self.now - age), f"e{number}", fields=fields)
        mine.append(msgspec.structs.replace(made, source=source, source_offset=len(mine)))

    def send(self) -> None:
        """Some reader sends its next event; an old one that is cut off may do so too."""
        source = self.rng.choice(SOURCES)
        reader = self.rng.randrange(len(self.readers[source]))
        at, since = self.readers[source][reader]
        if at < len(self.messages[source]):
            self.sent.append(msgspec.structs.replace(self.messages[source][at], since=since))
            self.readers[source][reader] = at + 1, since

    def commit(self) -> None:
        """Of the newest reader: all below was sent."""
        source = self.rng.choice(SOURCES)
        self.committed[source] = self.readers[source][-1][0]

    def crash(self) -> None:
        source = self.rng.choice(SOURCES)
        self.readers[source].append((self.committed[source], self.since[source]))

    def forget(self) -> None:
        """The commits are lost: all is read again, and counted anew."""
        source = self.rng.choice(SOURCES)
        self.since[source] += 1
        self.committed[source] = 0
        self.readers[source].append((0, self.since[source]))

    def finish(self) -> None:
        for source in SOURCES:
            at, since = self.readers[source][-1]
            self.sent += [msgspec.structs.replace(e, since=since) for e in self.messages[source][at:]]


class Record(NamedTuple):
    key: bytes | None  # None = a marker
    value: bytes | None
    sweep: bool


class Processors:
    """The log `tokens`, and processors that are killed after any of a batch's records, or lose their disk."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.log: list[Record] = []
        self.disks = 0
        self.committed = -1  # Kafka's, of `events`
        self.buffer = open_buffer(folder / "0", SHARED)

    def batch(self, events: Sequence[EncodedEvent], crash: float) -> None:
        first = self.buffer.source_offset + 1
        part = events[first : first + self.rng.randrange(1, 9)]
        if not part:
            return
        changes = self.buffer.prepare(part, source_offset=first + len(part) - 1)
        records = [] if changes.account is None else [Record(None, self.buffer.marker(changes.account), False)]
        records += [Record(key, value, False) for key, value in changes.rows]
        records += [Record(key, value, True) for key, value in changes.sweep_rows]
        if self.rng.random() < crash:
            self.log += records[: self.rng.randrange(len(records) + 1)]
            self.start()
            return
        self.log += records
        self.buffer.commit(changes, log_offset=len(self.log))
        if self.rng.random() < crash:
            self.start()
        elif self.rng.random() < 0.5:
            self.committed = self.buffer.source_offset

    def start(self) -> None:
        self.buffer.close()
        if lost := self.rng.random() < 0.3:
            self.disks += 1
        self.buffer = open_buffer(self.folder / str(self.disks), SHARED)
        at = self.buffer.log_offset
        while at < len(self.log):
            size = 1
            while size < 6 and at + size < len(self.log) and self.log[at + size].sweep is self.log[at].sweep:
                size += 1
            part = self.log[at : at + size]
            at += size
            markers = [record.value for record in part if record.key is None]
            rows = [(record.key, record.value) for record in part if record.key is not None]
            marker = markers[-1] if markers else None
            self.buffer.apply_log(rows, next_offset=at, sweep=part[0].sweep, marker=marker)
        self.buffer.finish_restore()
        self.log.append(Record(None, self.buffer.marker(), False))
        self.buffer.apply_log([], next_offset=len(self.log), marker=self.log[-1].value)
        if lost:
            self.buffer.begin_source("t", self.committed)


def reference(raw: Raw) -> Totals:
    """Each raw message once, at its first coming since ingest counts it, judged by the model."""
    model = BufferModel(modalities(), DIM, GRANULARITY_MS)
    first: dict[tuple[str, int], str] = {}
    found = Totals()
    for one in raw.sent:
        (outcome,) = model.batch([one])
        if one.since == raw.since[one.source] and first.setdefault((one.source, one.source_offset), "") == "":
            first[one.source, one.source_offset] = outcome
            found[one.source, one.modality, outcome] += 1
    return found


STEPS = st.lists(st.sampled_from("ppppsssssccbbbx"), min_size=5, max_size=120)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), STEPS, st.sampled_from([0.0, 0.3, 0.6]), st.booleans())
def test_each_event_is_counted_once_as_what_it_was_judged_first(
    seed: int, steps: list[str], crash: float, forgets: bool
) -> None:
    rng = random.Random(seed)
    raw = Raw(rng)
    folder = Path(tempfile.mkdtemp(prefix="account-"))
    processors = Processors(folder, rng)
    try:
        for step in steps:
            match step:
                case "p":
                    raw.produce()
                case "s":
                    raw.send()
                case "c":
                    raw.commit()
                case "x":
                    raw.forget() if forgets and rng.random() < 0.3 else raw.crash()
                case "b":
                    processors.batch(raw.sent, crash)
        raw.finish()
        while processors.buffer.source_offset + 1 < len(raw.sent):
            processors.batch(raw.sent, crash / 2)
        expected = reference(raw)
        assert totals(processors.buffer.account) == expected
        # every raw message that was sent since ingest began to count its source, once
        assert expected.total() == sum(
            len({e.source_offset for e in raw.sent if (e.source, e.since) == (source, raw.since[source])})
            for source in SOURCES
        )
        # whoever restores from the log alone knows the same
        last = next((r.value for r in reversed(processors.log) if r.key is None), None)
        assert totals(marked_account(last) or Account()) == expected
    finally:
        processors.buffer.close()
        shutil.rmtree(folder)


def counted(source: str, offset: int, since: int = 1, modality: str = "a") -> EncodedEvent:
    return msgspec.structs.replace(
        event("u", modality, 1000, f"e{source}{offset}"), source=source, source_offset=offset, since=since
    )


def apply(account: Account, events: Sequence[EncodedEvent], refused: Sequence[RefusedEvent] = ()) -> Account:
    """All as new."""
    batch = AccountBatch(account)
    batch.sort_out(events, refused)
    for one in events:
        batch.tally(one.modality).add(one, Outcome.APPLIED)
    assert sum(batch.outcomes()) == len(events)
    return batch.account() or account


def test_an_event_without_a_count_of_ingests_is_not_counted() -> None:
    """As of packs of an older version: ingest has them in no count either."""
    account = Account()
    assert apply(account, [counted("r:0", n, since=0) for n in range(3)]) is account


def test_a_newer_count_begins_anew_also_within_a_batch() -> None:
    account = apply(Account(), [counted("r:0", n) for n in range(3)])
    account = apply(account, [counted("r:0", 3), counted("r:0", 0, since=2), counted("r:0", 4), counted("s:0", 7)])
    assert totals(account) == {("r:0", "a", "applied"): 1, ("s:0", "a", "applied"): 1}
    assert account.sources["r:0"] == SourceAccount(2, 0, {"a": {"applied": 1}})


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2)), max_size=20), st.integers(1, 20))
def test_those_that_the_processor_refuses_are_counted_once_too(kinds: list[tuple[bool, int]], size: int) -> None:
    """In the order of their coming, each twice: some are events, some are refused."""
    account = Account()
    coming = [n for n in range(len(kinds)) for _ in range(kinds[n][1])]
    for start in range(0, len(coming), size):
        part = coming[max(0, start - 1) : start + size]  # and the one before again
        events = [counted("r:0", n) for n in part if kinds[n][0]]
        refused = [RefusedEvent("r:0", n, 1, "z", "unknown_modality") for n in part if not kinds[n][0]]
        account = apply(account, events, refused)
    good = sum(kind for kind, _ in kinds)
    expected = {("r:0", "a", "applied"): good, ("r:0", "z", "unknown_modality"): len(kinds) - good}
    assert totals(account) == +Counter(expected)


def test_bytes_are_read_as_they_were_written() -> None:
    account = Account({"r:0": SourceAccount(5, 9, {"a": {"applied": 3}})})
    assert Account.unpack(account.packed).sources == account.sources
    assert Account.unpack(None).sources == {}
    with pytest.raises(ValueError, match="version"):
        Account.unpack(msgspec.msgpack.encode((VERSION + 1, {})))


def test_markers_of_before_have_no_account_and_are_read(tmp_path: Path) -> None:
    schema = Schema.of("enc", DIM, modalities())
    assert marked_account(schema.pack()) is None
    assert marked_account(b"") is None
    buffer = open_buffer(tmp_path / "b", SHARED)
    buffer.commit(buffer.prepare([counted("r:0", 0)], source_offset=0), log_offset=0)
    buffer.apply_log([], next_offset=1, marker=schema.pack())
    assert buffer.account.total() == {"applied": 1}, "an older version has owned it meanwhile"
    # and those of today are read by those of before
    assert Schema.unpack(buffer.marker()) == schema
    buffer.close()


def test_the_account_is_there_after_a_restart(tmp_path: Path) -> None:
    def opened() -> TokenBuffer:
        return open_buffer(tmp_path / "b", SHARED)

    buffer = opened()
    events: list[Any] = [counted("r:0", 0), counted("r:0", 1), counted("r:0", 0)]
    changes = buffer.prepare(events, source_offset=0)
    assert changes.outcomes.applied == 2
    assert changes.outcomes.duplicate == 1
    buffer.commit(changes, log_offset=4)
    buffer.close()
    again = opened()
    assert again.account.total() == {"applied": 2}
    assert again.prepare([], source_offset=0).account is None, "nothing to say"
    again.close()
