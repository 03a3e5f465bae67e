"""A back-fill is over when what the workers had published by their last report is applied; and then it counts."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from confluent_kafka import KafkaError, KafkaException

from store.base.settings import ScenarioSettings
from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog, ServedScenario
from store.index.index import ScenarioIndex
from store.records.back_fill import BackFillRecord
from store.records.scenario import Registered
from stream.serve.back_fill_watch import BackFillWatch

QUERY = ScenarioSettings(query="q")
LOAN = Registered(QUERY, 1001, 1)


class Bench:
    """Two partitions; `ends` is what the broker tells, None = it does not answer."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.board = BackFillBoard(2)
        self.ends: dict[int, int] | None = {0: 0, 1: 0}
        self.asked: list[str] = []
        self.watch = BackFillWatch(self.board, self.catalog, self._ends)
        self.serve("churn", Registered(QUERY))

    def _ends(self, names: Iterable[str]) -> dict[str, dict[int, int]]:
        self.asked += names
        if self.ends is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return dict.fromkeys(self.asked, self.ends)

    def serve(self, name: str, entry: Registered) -> None:
        index = ScenarioIndex(name, registration=entry.registration)
        self.catalog.put(name, ServedScenario(entry, index))
        self.watch.changed()

    def report(self, name: str, entry: Registered, *, complete: bool = True, model: str = "m") -> None:
        for partition in range(2):
            self.board.put(
                BackFillRecord(name, partition, entry.registration, model, 1, 1, complete, 1, entry.revision)
            )
        self.watch.changed()

    def applied(self, name: str, **offsets: int) -> None:
        self.catalog[name].index.mark_applied({int(p[1:]): offset for p, offset in offsets.items()})

    def complete(self, name: str) -> bool:
        progress = self.board.progress(name, self.catalog[name].entry)
        return progress is not None and progress.complete


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_waits_for_every_partition_to_be_applied(bench: Bench) -> None:
    bench.serve("loan", LOAN)
    assert bench.watch.step()
    assert bench.watch.counting() == ("churn",)
    bench.ends = {0: 3, 1: 5}
    bench.report("loan", LOAN)
    bench.watch.step()
    bench.applied("loan", p0=3, p1=4)
    assert not bench.watch.step()
    assert not bench.complete("loan")
    bench.applied("loan", p1=5)
    assert bench.watch.step()
    assert bench.complete("loan")
    assert bench.watch.counting() == ("churn", "loan")
    assert bench.asked == ["loan"], "once"
    bench.watch.changed()
    bench.watch.step()
    assert bench.asked == ["loan"], "not again for what is confirmed"


def test_a_broker_that_does_not_answer_is_asked_again(bench: Bench) -> None:
    bench.serve("loan", LOAN)
    bench.report("loan", LOAN)
    bench.ends = None
    for _ in range(2):
        with pytest.raises(KafkaException):
            bench.watch.step()
    assert not bench.complete("loan")
    bench.ends = {0: 0, 1: 0}
    assert bench.watch.step()
    assert bench.complete("loan")


def test_a_changed_query_is_complete_anew_and_counts_all_along(bench: Bench) -> None:
    bench.serve("loan", LOAN)
    bench.report("loan", LOAN)
    bench.watch.step()
    changed = Registered(ScenarioSettings(query="other"), LOAN.registration, 2)
    bench.catalog.put("loan", ServedScenario(changed, bench.catalog["loan"].index))
    bench.watch.changed()
    bench.watch.step()
    assert not bench.complete("loan")
    assert "loan" in bench.watch.counting()
    bench.ends = {0: 9, 1: 9}
    bench.report("loan", changed, model="m2")
    bench.watch.step()
    assert not bench.complete("loan")
    bench.applied("loan", p0=9, p1=9)
    bench.watch.step()
    assert bench.complete("loan")


@pytest.mark.parametrize("again", [False, True])
def test_what_is_retired_while_it_is_awaited_counts_no_more(bench: Bench, again: bool) -> None:
    bench.serve("loan", LOAN)
    bench.ends = {0: 1, 1: 1}
    bench.report("loan", LOAN)
    bench.watch.step()
    bench.catalog.remove("loan")
    if again:
        bench.serve("loan", Registered(QUERY, 1002, 5))
        bench.applied("loan", p0=1, p1=1)
    bench.watch.changed()
    bench.watch.step()
    assert bench.watch.counting() == ("churn",)
    assert not again or not bench.complete("loan")


def test_candidates_are_confirmed_and_never_count(bench: Bench) -> None:
    bench.serve("churn@next", Registered(QUERY))
    bench.report("churn@next", Registered(QUERY))
    bench.report("churn", Registered(QUERY))
    bench.watch.step()
    assert bench.complete("churn")
    assert bench.complete("churn@next")
    assert bench.watch.counting() == ("churn",)


def test_what_a_worker_cannot_compute_does_not_count(bench: Bench) -> None:
    """A typing error in the name of a soft prompt would leave every event pending for ever."""
    bench.serve("loan", LOAN)
    bench.report("loan", LOAN)
    bench.watch.step()
    assert bench.watch.counting() == ("churn", "loan")
    mistyped = Registered(ScenarioSettings(query="q", prompt="laon"), 1001, 2)
    bench.serve("loan", mistyped)
    bench.board.put(BackFillRecord("loan", 1, 1001, "", 0, 0, False, 2, 2, error="prompt_missing: laon"))
    bench.watch.changed()
    assert bench.watch.step()
    assert bench.watch.counting() == ("churn",)
    mended = Registered(QUERY, 1001, 3)
    bench.serve("loan", mended)
    bench.report("loan", mended)
    assert bench.watch.step()
    assert bench.watch.counting() == ("churn", "loan")
