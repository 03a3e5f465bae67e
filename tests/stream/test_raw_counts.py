"""Counts of a raw partition: what is committed with an offset is what became of the messages below it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import ModalitySettings
from stream.clock import AGREE, EventClock, read_clock
from stream.commit_metadata import encode
from stream.events.event import Event
from stream.events.validate import Validator
from stream.ingest.in_flight import RawPosition
from stream.ingest.judge import Judge
from stream.raw_counts import MAX_CHARS, OTHERS, CountedPartition, RawCounts, read_counts, read_since, since_header
from stream.rejection import ErrorCode, Skipped, SkipReason
from stream.settings import Clock, Condition, IngestSettings, MappingSettings
from tests.support.raw_message import RawMessage

SOURCE = ("shop", 0)
DAY_MS = 86_400_000
NOW = 1_700_000_000_000
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
COUNTS = st.dictionaries(NAMES, st.integers(1, 10**12), max_size=6)


@given(st.integers(0, 2**60), st.integers(-(2**60), 2**60), COUNTS, COUNTS, COUNTS, st.integers(0, 10**12))
def test_counts_are_read_as_they_were_written(
    since: int, begin: int, accepted: dict[str, int], refused: dict[str, int], skipped: dict[str, int], passed: int
) -> None:
    counts = RawCounts(since, begin, accepted, refused, skipped, passed)
    metadata = RawPosition(7, topic_id="t", counts=counts).metadata()
    assert read_counts(metadata) == counts
    assert len(metadata) < 4096


def test_a_commit_without_counts_has_none() -> None:
    for metadata in (None, "", "clock=5,topic=x", "since=1", "since=x,begin=1", "since=1,begin=1,accepted=a:b"):
        assert read_counts(metadata) is None
    assert read_counts(RawPosition(7, counts=RawCounts(1, 2)).metadata(0)) is None


@given(st.sets(NAMES, min_size=1, max_size=250), st.integers(0, MAX_CHARS))
def test_what_does_not_fit_is_counted_as_others(names: set[str], max_chars: int) -> None:
    """No event is lost from the sum; the largest modalities keep their names."""
    codes = {str(code): 10**9 for code in ErrorCode}
    counts = RawCounts(
        1, 0, {name: 10 ** (i % 10) for i, name in enumerate(sorted(names))}, codes, {str(r): 10**9 for r in SkipReason}
    )
    fields = counts.fields(max_chars)
    found = read_counts(encode(fields))
    assert found is not None
    assert found.messages == counts.messages
    assert found.refused == codes
    assert set(found.accepted) <= names | {OTHERS}
    kept = [counts.accepted[name] for name in found.accepted if name != OTHERS]
    if OTHERS in found.accepted:
        assert min(kept, default=10**9) >= max(counts.accepted[name] for name in names - found.accepted.keys())
    assert len(encode(fields)) <= max_chars or not kept


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=5))
def test_the_header_says_since_when_each_source_is_counted(since: list[int]) -> None:
    assert read_since(since_header(since), len(since)) == since


def test_a_header_that_does_not_fit_says_nothing() -> None:
    assert read_since(None, 3) == read_since(b"", 3) == read_since(b"x", 3) == read_since(b"1,2", 3) == [0, 0, 0]
    assert read_since(b"5", 3) == [5, 5, 5]


MODALITIES = {"pay": ModalitySettings(topic="shop", text="{shop}", window_days=30)}
MAPPING = {"shop": MappingSettings(where=(Condition(field="kind", equals="pay"),))}
KINDS = st.sampled_from(["fits", "ahead", "far", "garbage", "other", "run"])


def message(offset: int, kind: str) -> list[RawMessage]:
    """Of its offset; `run`: as many in a row as move the stream's clock."""
    if kind == "garbage":
        return [RawMessage(*SOURCE, offset, b"{")]
    if kind == "run":
        return [made for n in range(AGREE) for made in message(offset + n, "far")]
    ts = NOW - 300 * DAY_MS + offset + {"ahead": 200 * DAY_MS, "far": 250 * DAY_MS}.get(kind, 0)
    event = {"user_id": "u", "ts": ts, "shop": "s", "kind": "view" if kind == "other" else "pay"}
    return [RawMessage(*SOURCE, offset, json.dumps(event).encode())]


class Reader:
    """Ingest's counting, without a broker."""

    def __init__(self, committed: str | None = None) -> None:
        settings = IngestSettings(clock=Clock.STREAM, max_ahead_days=10)
        clock = EventClock.of(settings, MODALITIES)
        self.judge = Judge(Validator(MODALITIES, settings, clock, lambda topic: topic, MAPPING), clock)
        self.counted = CountedPartition(read_counts(committed) or RawCounts(1, 0))
        if committed is not None:
            self.judge.restore(SOURCE, read_clock(committed))

    def read(self, messages: list[RawMessage], *, end: bool = False) -> tuple[int, str]:
        """What is committed after them. end: no more is waited for."""
        found = [*self._judged(messages), *(self._concluded() if end else [])]
        self.counted.accepted("pay", sum(found))
        held = self.judge.first_held(SOURCE)
        upto = messages[-1].offset() + 1 if held is None else held
        return upto, RawPosition(upto, self.judge.state(SOURCE), None, self.counted.upto(upto)).metadata()

    def _judged(self, messages: list[RawMessage]) -> list[bool]:
        return [self._one(*verdict) for verdict in self.judge.judge(messages, NOW)]

    def _concluded(self) -> list[bool]:
        return [self._one(*verdict) for verdict in self.judge.conclude(SOURCE, NOW)]

    def _one(self, message: RawMessage, result: object) -> bool:
        if isinstance(result, Event):
            return True
        waits = self.judge.first_held(SOURCE) is not None
        if isinstance(result, Skipped):
            self.counted.skipped(message.offset(), result.reason, waits=waits)
        else:
            self.counted.refused(message.offset(), result.code, waits=waits)  # type: ignore[attr-defined]
        return False


@given(st.lists(KINDS, max_size=40), st.data())
def test_each_message_is_counted_once_whatever_is_read_again(kinds: list[str], data: st.DataObject) -> None:
    """Batches of any size; after each it may end, and another goes on at what was committed, perhaps of before."""
    messages: list[RawMessage] = [made for n in range(AGREE) for made in message(n, "fits")]
    for kind in kinds:
        messages += message(len(messages), kind)
    messages += message(len(messages), "fits")
    whole = Reader()
    _, expected = whole.read(messages, end=True)

    reader, committed, at = Reader(), None, 0
    while at < len(messages):
        size = data.draw(st.integers(1, 25))
        batch = messages[at : at + size]
        last = at + len(batch) == len(messages)
        upto, said = reader.read(batch, end=last)
        counts = read_counts(said)
        assert counts is not None
        assert counts.messages == upto, "what lies below the offset, and nothing else"
        at += len(batch)
        if not last or data.draw(st.booleans()):
            committed = (upto, said) if data.draw(st.booleans()) else committed
        if data.draw(st.booleans()) and (committed is None or committed[0] < len(messages)):
            at, said = committed or (0, None)
            reader = Reader(said)
    assert read_counts(said) == read_counts(expected)


def test_a_verdict_beyond_one_that_waits_counts_with_it() -> None:
    counted = CountedPartition(RawCounts(1, 0))
    counted.refused(6, "invalid_json", waits=True)
    counted.skipped(7, "where", waits=True)
    assert counted.upto(5).messages == 0
    assert counted.upto(7).refused == {"invalid_json": 1}
    assert counted.upto(8).skipped == {"where": 1}
    assert counted.upto(9).messages == 2


def test_it_grows_only() -> None:
    counted = CountedPartition(RawCounts(1, 0, {"a": 3}, passed_over=4))
    found = []
    for n in range(4):
        counted.accepted("a", n)
        found.append(counted.upto(n))
    assert all(a.messages <= b.messages for a, b in pairwise(found))
    assert Counter(found[-1].accepted) == {"a": 9}
    assert found[0].messages == 7, "what was handed out does not change"
