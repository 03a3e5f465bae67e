"""The ownership rule, and healing, under every interleaving and every compaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from stream.token_log.ownership import Ownership, epoch

MARKER = "marker"


@dataclass
class Writer:
    """A processor's view: its owner, what it holds, and records it has queued but the broker has not taken."""

    owner: bytes
    rows: dict[str, int | None]
    queued: list[tuple[str, int | None]] = field(default_factory=list)
    seen: int = 0


Record = tuple[bytes, str, int | None]


def read(log: list[Record | None]) -> tuple[Ownership, dict[str, int | None], set[str]]:
    """A reader of the log from its start: (rule's state, rows, keys of records skipped)."""
    rule, rows, stale = Ownership(), dict[str, int | None](), set[str]()
    for record in log:
        if record is None:
            continue
        owner, key, value = record
        if not rule.admits(owner):
            stale.add(key)
        elif key != MARKER:
            rows[key] = value
    return rule, rows, stale - {MARKER}


def live(rows: dict[str, int | None]) -> dict[str, int]:
    return {key: value for key, value in rows.items() if value is not None}


def compacted(log: list[Record | None], upto: int, drop: st.DataObject) -> list[Record | None]:
    """Some of the records before `upto` that a later one with the same key replaces are gone."""
    out = list(log)
    later: set[str] = set()
    for i in range(len(out) - 1, -1, -1):
        record = out[i]
        if record is not None:
            if i < upto and record[1] in later and drop.draw(st.booleans()):
                out[i] = None
            later.add(record[1])
    return out


@given(st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.booleans()), max_size=30))
def test_a_record_counts_unless_a_greater_owner_came_before(records: list[tuple[bytes, bool]]) -> None:
    rule = Ownership()
    before: list[bytes] = []
    for owner, again in records:
        current = max(before, default=b"")
        owner = current if again else owner
        assert rule.admits(owner) is (owner >= current)
        before.append(owner)


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_a_successor_is_greater_than_all_before(at: int, low: int, random: int) -> None:
    current = at.to_bytes(4, "big") + low.to_bytes(4, "big")
    successor = Ownership(current).successor(random)
    assert successor > current
    assert epoch(successor) == at + 1
    assert epoch(b"") == 0
    assert Ownership().successor(random) > b""


@given(st.data())
def test_readers_agree_with_the_last_owner(data: st.DataObject) -> None:
    """Owners come and go; former ones deliver what they had queued, late; the log is compacted up to the owner's last
    look at it (`min.compaction.lag.ms`; docs/commit-protocol.md).

    Nothing an owner wrote is lost. Once the last owner has logged again what it saw written over, every reader of the
    log, however compacted, holds exactly what that owner holds.
    """
    log: list[Record | None] = []
    truth: dict[str, int | None] = {}
    writers: list[Writer] = []
    steps = data.draw(st.lists(st.sampled_from(["take", "write", "late", "late", "write", "compact"]), max_size=30))
    for step in ["take", *steps]:
        if step == "take":
            rule, rows, stale = read(log)
            owner = rule.successor(data.draw(st.integers(0, 3)))
            log.append((owner, MARKER, None))
            new = Writer(owner, rows, seen=len(log))
            new.queued = [(key, rows.get(key)) for key in stale]
            writers.append(new)
            assert live(rows) == live(truth)
            deliver(log, new)
        elif step == "write":
            writer = data.draw(st.sampled_from(writers))  # a former owner does not know yet
            writer.queued.append((data.draw(st.sampled_from("abc")), data.draw(st.none() | st.integers(0, 9))))
            if writer is writers[-1]:
                truth.update(writer.queued)
                deliver(log, writer)
        elif step == "late":
            deliver(log, data.draw(st.sampled_from(writers[:-1] or writers)), limit=1)
        else:
            log = compacted(log, writers[-1].seen, data)
        if step != "compact":  # readers never believe a former owner, whatever was compacted before
            assert all(read(log[:i])[0].current <= writers[-1].owner for i in range(len(log)))
    deliver(log, writers[-1])
    assert live(writers[-1].rows) == live(truth)
    for upto in (0, len(log), len(log)):
        assert live(read(compacted(log, upto, data))[1]) == live(truth)


def deliver(log: list[Record | None], writer: Writer, limit: int | None = None) -> None:
    """What is queued reaches the log. The owner finds records of former owners between its own (the offsets have a
    gap) and logs its own state of their keys again; a former owner finds a greater owner and stops."""
    batch, writer.queued = writer.queued[:limit], writer.queued[limit:] if limit is not None else []
    for key, value in batch:
        log.append((writer.owner, key, value))
    foreign = [record for record in log[writer.seen :] if record is not None and record[0] != writer.owner]
    if any(record[0] > writer.owner for record in foreign):
        return
    writer.rows.update(batch)
    stale = {record[1] for record in foreign} - {MARKER}
    log += [(writer.owner, key, writer.rows.get(key)) for key in sorted(stale)]
    writer.seen = len(log)
