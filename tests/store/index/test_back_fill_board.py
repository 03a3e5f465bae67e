"""A back-fill is complete when every partition's worker says so of this registration and query, and it is confirmed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import ScenarioSettings
from store.index.back_fill_board import BackFillBoard
from store.records.back_fill import BackFillRecord
from store.records.scenario import Registered

PARTITIONS = 2
entries = st.builds(
    Registered, st.just(ScenarioSettings(query="q")), registration=st.sampled_from([1, 2]), revision=st.integers(0, 2)
)
records = st.builds(
    BackFillRecord,
    scenario=st.sampled_from(["a", "b"]),
    partition=st.integers(0, PARTITIONS - 1),
    registration=st.sampled_from([1, 1, 2]),
    model=st.sampled_from(["m1", "m2"]),
    done=st.integers(0, 9),
    total=st.integers(0, 9),
    complete=st.booleans(),
    updated_at=st.just(1),
    revision=st.integers(0, 3),
)


@given(st.lists(records | st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1)), max_size=12), entries)
def test_equals_the_newest_report_of_each_partition(
    said: list[BackFillRecord | tuple[str, int]], entry: Registered
) -> None:
    board = BackFillBoard(PARTITIONS)
    newest: dict[tuple[str, int], BackFillRecord] = {}
    for what in said:
        if isinstance(what, BackFillRecord):
            board.put(what)
            newest[what.scenario, what.partition] = what
        else:
            board.forget(*what)
            newest.pop(what, None)
    for name in ("a", "b"):
        counting = [
            record
            for (scenario, _), record in sorted(newest.items())
            if scenario == name and record.registration == entry.registration and record.revision >= entry.revision
        ]
        progress = board.progress(name, entry)
        done = len(counting) == PARTITIONS and all(record.complete for record in counting)
        models = frozenset(record.model for record in counting)
        assert board.reported_done(name, entry) == (models if done else None)
        if not counting:
            assert progress is None
            continue
        assert progress is not None
        assert list(progress.partitions) == counting
        assert progress.done == sum(record.done for record in counting)
        assert progress.total == sum(record.total for record in counting)
        assert not progress.complete, "not queryable yet"
        if done:
            board.confirm(name, entry, models)
            confirmed = board.progress(name, entry)
            assert confirmed is not None
            assert confirmed.complete


def record(partition: int, *, model: str = "m1", complete: bool = True, revision: int = 1) -> BackFillRecord:
    return BackFillRecord("a", partition, 7, model, 1, 1, complete, 1, revision)


def test_another_query_or_model_is_confirmed_anew() -> None:
    board = BackFillBoard(PARTITIONS)
    entry = Registered(ScenarioSettings(query="q"), 7, 1)
    for partition in range(PARTITIONS):
        board.put(record(partition))
    board.confirm("a", entry, frozenset({"m1"}))
    changed = Registered(ScenarioSettings(query="other"), 7, 2)
    assert board.progress("a", changed) is None, "reports on the earlier query do not count"
    board.put(record(0, model="m2", revision=2))
    progress = board.progress("a", changed)
    assert progress is not None
    assert (len(progress.partitions), progress.complete) == (1, False)
    board.put(record(1, model="m2", revision=2))
    assert not board.confirmed("a", changed, frozenset({"m2"}))
    for partition in range(PARTITIONS):
        board.put(record(partition, complete=False))
        progress = board.progress("a", entry)
        assert progress is not None
        assert not progress.complete, "a back-fill that began again"


def test_a_partition_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="partition 2 is not one of 2"):
        BackFillBoard(PARTITIONS).put(record(2))
