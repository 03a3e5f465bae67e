"""Pending events, low-water marks and freshness equal a list of all events, looked through each time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from store.index.freshness import RECENT_SECONDS, AcceptedEvent, FreshnessSamples, PendingEvents
from store.index.row_meta import Coverage

SCENARIOS = ("a", "b")
SOURCES = ("raw:0", "raw:1")
users = st.sampled_from(["u1", "u2", "u3"])
offsets = st.integers(0, 12)


@dataclass
class Known:
    """One event as the twin remembers it."""

    event: AcceptedEvent
    partition: int
    position: int
    settled: bool = False


@dataclass
class Twin:
    """now: a clock that every action advances."""

    rows: dict[tuple[str, str], Coverage] = field(default_factory=dict)
    events: list[Known] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    required: tuple[str, ...] = SCENARIOS
    now: int = 1000

    def coverage(self, scenario: str, user: str) -> Coverage | None:
        return self.rows.get((scenario, user))

    def _settles(self, scenario: str, event: AcceptedEvent) -> bool:
        row = self.rows.get((scenario, event.user_id))
        if row is None:  # erased elsewhere, and never here
            others = [self.rows.get((other, event.user_id)) for other in self.required]
            return any(o and o.erased_at is not None and event.ingested_at <= o.erased_at for o in others)
        erased = row.erased_at is not None and event.ingested_at <= row.erased_at
        return erased or row.covers.get(event.source, -1) >= event.offset

    def settle(self) -> None:
        for known in self.events:
            known.settled |= all(self._settles(scenario, known.event) for scenario in self.required)

    def pending(self) -> list[Known]:
        return [known for known in self.events if not known.settled]

    def low_water(self) -> dict[int, int]:
        marks = dict(self.positions)
        for known in self.pending():
            marks[known.partition] = min(known.position, marks[known.partition])
        return marks


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_equals_the_twin(data: st.DataObject) -> None:
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    tracker.start(twin.positions)
    newest = dict.fromkeys(SOURCES, 0)
    for _ in range(data.draw(st.integers(1, 15), "steps")):
        twin.now += 1
        action = data.draw(st.sampled_from(["accept", "accept", "record", "record", "erase", "gap", "require"]))
        if action == "accept":
            partition = data.draw(st.integers(0, 1))
            position = twin.positions[partition]
            events = []
            for user, source, step in data.draw(
                st.lists(st.tuples(users, st.sampled_from(SOURCES), st.integers(-2, 1)))
            ):
                # mostly the next raw offset; sometimes one again, as ingest sends after a restart
                newest[source] = max(0, newest[source] + max(step, 0))
                offset = max(0, newest[source] + min(step, 0))
                events.append(AcceptedEvent(user, source, offset, twin.now, twin.now))
            twin.events += [Known(event, partition, position) for event in events]
            twin.positions[partition] = position + 1
            tracker.observe(partition, position, events)
        elif action == "gap":
            partition = data.draw(st.integers(0, 1))
            twin.positions[partition] += 2
            tracker.skip_to(partition, twin.positions[partition])
        elif action == "require":
            twin.required = data.draw(st.sampled_from([("a",), ("b",), ("a", "b")]))
            tracker.require(twin.required)
        else:
            user, scenario = data.draw(users), data.draw(st.sampled_from(SCENARIOS))
            if action == "erase":
                old = twin.rows.get((scenario, user))
                twin.rows[scenario, user] = Coverage(old.covers if old else {}, twin.now, twin.now)
            else:
                covers = data.draw(st.dictionaries(st.sampled_from(SOURCES), offsets))
                twin.rows[scenario, user] = Coverage(covers, twin.now)
            tracker.advance([user], now_ms=twin.now)
        twin.settle()
        assert len(tracker) == len(twin.pending())
        assert tracker.low_water() == twin.low_water()
        report = tracker.report(now_ms=twin.now)
        assert report["pending_events"] == len(twin.pending())
        assert report["pending_users"] == len({known.event.user_id for known in twin.pending()})
        for user in ("u1", "u2", "u3"):
            covers = {"raw:0": twin.now % 7}
            mine = [k.event for k in twin.pending() if k.event.user_id == user]
            expected = sum(event.offset > covers.get(event.source, -1) for event in mine)
            assert tracker.pending(user, covers) == expected


def event(offset: int, *, user: str = "u", produced_at: int = 1000) -> AcceptedEvent:
    return AcceptedEvent(user, "raw:0", offset, produced_at, produced_at)


def test_an_event_is_sampled_once_when_the_last_scenario_covers_it() -> None:
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    tracker.observe(0, 0, [event(1, produced_at=1000), event(2, produced_at=1500)])
    tracker.observe(0, 1, [event(2, produced_at=1500)])  # sent twice
    twin.rows["a", "u"] = Coverage({"raw:0": 2}, 1800)
    assert tracker.advance(["u"], now_ms=1800) == []
    twin.rows["b", "u"] = Coverage({"raw:0": 1}, 2000)
    assert tracker.advance(["u"], now_ms=2000) == [1.0]
    twin.rows["b", "u"] = Coverage({"raw:0": 9}, 2500)
    assert tracker.advance(["u"], now_ms=2500) == [1.0]
    assert tracker.advance(["u"], now_ms=2600) == []


def test_an_event_covered_when_it_is_read() -> None:
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    for scenario, at in zip(SCENARIOS, (1300, 1400), strict=True):
        twin.rows[scenario, "u"] = Coverage({"raw:0": 5}, at)
    assert tracker.observe(0, 0, [event(5)]) == [0.4]
    assert tracker.observe(0, 1, [event(5)], sample=False) == []
    assert tracker.observe(0, 2, [event(5, produced_at=-1)]) == []
    assert tracker.low_water() == {0: 3}


def test_an_erasure_is_no_freshness_and_a_later_event_is_pending() -> None:
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    tracker.observe(0, 0, [event(1)])
    for scenario in SCENARIOS:
        twin.rows[scenario, "u"] = Coverage({}, 2000, erased_at=2000)
    assert tracker.advance(["u"], now_ms=2100) == []
    assert len(tracker) == 0
    tracker.observe(0, 1, [event(2, produced_at=2001)])
    assert len(tracker) == 1


def test_a_scenario_that_counts_no_more_settles_what_only_it_lacked_without_a_sample() -> None:
    twin = Twin()
    tracker = PendingEvents(("a",), twin.coverage)
    tracker.observe(0, 0, [event(1)])
    tracker.require(("a", "b"))
    twin.rows["a", "u"] = Coverage({"raw:0": 1}, 1800)
    assert tracker.advance(["u"], now_ms=1800) == []
    tracker.require(("a",))
    assert len(tracker) == 0
    assert tracker.low_water() == {0: 1}
    assert tracker.samples.report()["all"]["count"] == 0
    tracker.require(("a", "b"))
    tracker.observe(0, 1, [event(1)])
    assert len(tracker) == 1


def test_memory_follows_what_is_pending() -> None:
    """One event stays for ever while ten thousand others come and go behind it."""
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    tracker.observe(0, 0, [event(0, user="stuck")])
    for position in range(1, 10_000):
        tracker.observe(0, position, [event(position)])
        for scenario in SCENARIOS:
            twin.rows[scenario, "u"] = Coverage({"raw:0": position}, 1)
        tracker.advance(["u"], now_ms=2)
    assert tracker.low_water() == {0: 0}
    assert list(tracker._users) == ["stuck"]
    assert len(tracker._messages[0]) == 1


def test_the_reservoir_is_bounded_and_fair_and_the_window_recent() -> None:
    clock = [0.0]
    samples = FreshnessSamples(size=1000, clock=lambda: clock[0])
    for second in range(100):
        clock[0] = second * 10.0
        samples.add([float(second)] * 100)
    report = samples.report()
    assert report["all"]["count"] == 10_000
    assert 42 < report["all"]["p50"] < 57
    assert report["all"]["p99"] > 95
    # the newest 1000 samples are of the last ten steps, all within five minutes
    assert report["recent"] == {"seconds": RECENT_SECONDS, "count": 1000, "p50": 94.5, "p99": 99.0, "max": 99.0}
    clock[0] = 10_000.0
    assert samples.report()["recent"] == {"seconds": RECENT_SECONDS, "count": 0}


def test_a_user_of_whom_nothing_is_left_is_not_waited_for_in_a_scenario_of_later() -> None:
    """Swept, then a scenario registered: its back-fill has no row of the user, and no deletion either."""
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    twin.rows["a", "u"] = Coverage({"raw:0": 1}, 2000, erased_at=2000)
    tracker.observe(0, 0, [event(1)], sample=False)
    assert len(tracker) == 0
    tracker.observe(0, 1, [event(2, produced_at=2001)])  # the user is back
    assert len(tracker) == 1


def test_what_may_have_been_forgotten_is_not_waited_for() -> None:
    """Deletions are kept for a week: of a user swept earlier nothing tells that there is nothing to come."""
    twin = Twin()
    tracker = PendingEvents(SCENARIOS, twin.coverage)
    tracker.observe(0, 0, [event(1, produced_at=1000), event(2, produced_at=1999)], sample=False, forgotten_before=2000)
    assert tracker.low_water() == {0: 1}
    tracker.observe(0, 1, [event(3, produced_at=2000)], sample=False, forgotten_before=2000)
    assert tracker.low_water() == {0: 1}
    assert len(tracker) == 1
    # of whom there is a row it is known what is missing
    twin.rows["a", "v"] = Coverage({"raw:0": 1}, 1500)
    tracker.observe(0, 2, [event(4, user="v", produced_at=1000)], sample=False, forgotten_before=2000)
    assert len(tracker) == 2
