"""The account adds up for any counts that ingest and processors can have, and says so where they cannot be right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from store.account.account import Account, SourceAccount
from store.account.outcome import OUTCOMES
from stream.account.report import AccountReport, Place, ProcessedPartition, RawPartition, account
from stream.raw_counts import OTHERS, RawCounts
from stream.rejection import ErrorCode, SkipReason

MODALITIES = ("click", "pay")
PROCESSORS = 2
NUMBERS = st.integers(0, 5)


class Made:
    """Counts drawn as a system could have made them."""

    def __init__(self, data: st.DataObject) -> None:
        self.raw: dict[Place, RawPartition] = {}
        self.lines: Counter[str] = Counter()
        sources: list[dict[str, SourceAccount]] = [{} for _ in range(PROCESSORS)]
        for topic in ("a", "b"):
            for number in range(2):
                made = [data.draw(NUMBERS) for _ in range(8)]
                accepted = dict(zip(MODALITIES, made[:2], strict=True))
                refused = {ErrorCode.INVALID_JSON.value: made[2], ErrorCode.TS_TOO_OLD.value: made[3]}
                skipped = {SkipReason.WHERE.value: made[4]}
                counts = RawCounts(10 + number, made[5], accepted, refused, skipped, made[6])
                committed = made[5] + counts.messages
                self.raw[topic, number] = RawPartition(committed, counts, 0, committed + made[7])
                self.lines.update(
                    published=counts.messages + made[7], accepted=made[0] + made[1], refused=made[2] + made[3],
                    skipped=made[4], passed_over=made[6], unread=made[7],
                )  # fmt: skip
                for processor in sources:
                    processor[f"{topic}:{number}"] = SourceAccount(10 + number, 0, {m: {} for m in MODALITIES})
                for modality, events in accepted.items():
                    for _ in range(events):
                        what = data.draw(st.sampled_from([*map(str, OUTCOMES), "unprocessed", "modality_changed"]))
                        self.lines[what] += 1
                        if what != "unprocessed":
                            of = data.draw(st.sampled_from(sources))[f"{topic}:{number}"].counts[modality]
                            of[what] = of.get(what, 0) + 1
        self.processed = [ProcessedPartition(Account(of), 3, 4, 5) for of in sources]

    def report(self) -> AccountReport:
        return account(self.raw, self.processed, at=1)


@given(st.data())
def test_it_adds_up(data: st.DataObject) -> None:
    made = Made(data)
    report = made.report()
    assert report.adds_up
    total = report.totals()
    changed = made.lines.pop("modality_changed", 0)
    assert total["refused_by_processors"] == changed
    assert {name: total[name] for name in made.lines} == made.lines
    assert total["published"] == sum(total[n] for n in ("accepted", "refused", "skipped", "passed_over", "unread"))
    assert report.users == 5 * PROCESSORS
    assert report.settled is (not total["unread"] and not total["unprocessed"])
    assert report.refused.total() == total["refused"] + changed


@given(st.data())
def test_what_was_processed_under_another_count_is_not_in_it(data: st.DataObject) -> None:
    """Of a topic that was made anew, of before the commits were lost, or of a partition ingest knows nothing of."""
    made = Made(data)
    expected = made.report()
    other = {"applied": 7}
    more = {
        "a#0123abcd:0": SourceAccount(9, 0, {"click": other}),
        "a:7": SourceAccount(10, 0, {"click": other}),
        "gone:0": SourceAccount(10, 0, {"click": other}),
    }
    made.processed.append(ProcessedPartition(Account(more), 4, 4, 5))
    found = made.report()
    assert replace(found, users=None) == replace(expected, users=None)


def test_what_no_processor_counted_is_said_once_all_is_read() -> None:
    """A processor of an older version has processed them."""
    raw = {("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 5}), 0, 5)}
    counted = Account({"a:0": SourceAccount(1, 4, {"click": {"applied": 2}})})
    for events_next, unprocessed, uncounted in ((3, 3, 0), (4, 0, 3)):
        (modality,) = account(raw, [ProcessedPartition(counted, events_next, 4, 1)], at=1).modalities
        assert (modality.unprocessed, modality.uncounted) == (unprocessed, uncounted)
        assert modality.adds_up


def test_what_is_processed_ahead_of_ingests_commit_has_its_line() -> None:
    raw = {("a", 0): RawPartition(2, RawCounts(1, 0, {"click": 2}), 0, 5)}
    counted = Account({"a:0": SourceAccount(1, 4, {"click": {"applied": 5}})})
    report = account(raw, [ProcessedPartition(counted, 4, 4, 1)], at=1)
    assert report.adds_up
    assert not report.settled
    assert report.totals()["ahead"] == 3
    assert report.lines()[1] == "accepted 2 + 3 not yet committed or read twice = 5 new"


def test_a_message_counted_twice_is_found() -> None:
    raw = {("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 6}), 0, 5)}
    assert not account(raw, [], at=1).adds_up


def test_offsets_without_a_message_are_not_published() -> None:
    raw = {("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 3}), 0, 5)}
    report = account(raw, [], at=1)
    assert report.adds_up
    assert (report.totals()["published"], report.totals()["without_message"]) == (3, 2)


def test_before_anything_is_counted() -> None:
    """Never committed; committed by an older version: counted from there on."""
    raw = {("a", 0): RawPartition(None, None, 2, 9), ("b", 0): RawPartition(4, None, 0, 9)}
    report = account(raw, [ProcessedPartition(None, 0, 0, None)], at=1, missing_topics=["c"])
    assert [(t.published, t.unread, t.since) for t in report.topics] == [(7, 7, None), (5, 5, None)]
    assert report.adds_up
    assert report.users is None
    assert report.missing_topics == ("c",)
    assert report.lines() == ["published 12 = 12 not yet read", "accepted 0 = 0"]


def test_what_belongs_to_no_topic_has_a_line() -> None:
    raw = {("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 5}), 0, 5)}
    counted = Account({"a:0": SourceAccount(1, 4, {"click": {"applied": 5}})})
    report = account(raw, [ProcessedPartition(counted, 4, 4, 1)], at=1, nowhere={"missing_modality": 2})
    assert report.lines()[0] == "published 7 = 5 accepted + 2 refused"
    assert report.refused == {"missing_modality": 2}
    assert (report.adds_up, report.settled) == (True, True)
    assert not account(raw, [ProcessedPartition(counted, 4, 4, 1)], at=1, unseen_letters=1).settled


def test_modalities_that_did_not_fit_a_commit_are_one() -> None:
    raw = {
        ("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 3, OTHERS: 2}), 0, 5),
        ("a", 1): RawPartition(4, RawCounts(1, 0, {"pay": 4}), 0, 4),
    }
    counted = Account({"a:0": SourceAccount(1, 4, {"click": {"applied": 3}, "pay": {"applied": 2}})})
    report = account(raw, [ProcessedPartition(counted, 4, 5, 1)], at=1)
    (one,) = report.modalities
    assert (one.modality, one.accepted, one.applied, one.unprocessed) == (OTHERS, 9, 5, 4)
    assert report.adds_up


def test_the_body_has_every_number() -> None:
    raw = {("a", 0): RawPartition(5, RawCounts(1, 0, {"click": 4}, {"no_content": 1}), 0, 5)}
    counted = Account({"a:0": SourceAccount(1, 4, {"click": {"applied": 3, "unknown_modality": 1}})})
    body = account(raw, [ProcessedPartition(counted, 4, 4, 3)], at=1).to_dict()
    assert body["refused"] == {"no_content": 1, "unknown_modality": 1}
    assert body["lines"] == [
        "published 5 = 4 accepted + 1 refused",
        "accepted 4 = 3 new + 1 refused by processors",
    ]
    assert body["topics"][0]["refused"] == {"no_content": 1}
    assert body["modalities"][0]["refused"] == {"unknown_modality": 1}
    assert (body["adds_up"], body["settled"], body["users"]) == (True, True, 3)
