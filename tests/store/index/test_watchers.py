"""Waiting for news of a user: told of one's own user only, and never after one has left."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.index.door import Entry
from store.index.index import ScenarioIndex
from store.index.watchers import Watchers
from store.records.embedding import EmbeddingRecord

USERS = ("anna", "bert", "cleo")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("watch"), st.sampled_from(USERS)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("tell"), st.sets(st.sampled_from(USERS))),
    ),
    max_size=30,
)


@given(STEPS)
def test_told_is_who_waits(steps: list[tuple[str, object]]) -> None:
    watchers = Watchers()
    contexts: list[tuple[str, ExitStack]] = []
    told: list[int] = []
    expected: list[int] = []
    for action, what in steps:
        if action == "watch":
            stack, number = ExitStack(), len(told)
            told.append(0)
            expected.append(0)
            stack.enter_context(watchers.watch(str(what), lambda n=number: told.__setitem__(n, told[n] + 1)))  # type: ignore[misc]
            contexts.append((str(what), stack))
        elif action == "leave":
            if isinstance(what, int) and what < len(contexts):
                contexts[what][1].close()
                contexts[what] = ("", contexts[what][1])
        else:
            assert isinstance(what, set)
            watchers.tell(what)
            for number, (user, _) in enumerate(contexts):
                expected[number] += user in what
        assert told == expected
        assert len(watchers) == len({user for user, _ in contexts if user})


def test_an_index_tells_once_the_record_is_visible() -> None:
    index = ScenarioIndex("churn")
    vector = np.random.default_rng(1).standard_normal(128).astype(np.float32)

    def entry(offset: int, user: str, *, erased: bool = False) -> Entry:
        record = EmbeddingRecord(user, "churn", "m", 1, 2, 3, vector, {"raw:0": offset})
        return Entry(0, offset, user, None if erased else record.pack(), 1)

    seen: list[dict[str, int] | None] = []

    def look() -> None:
        stored = index.get("anna")
        seen.append(None if stored is None else stored.record.covers)

    with index.watchers.watch("anna", look):
        index.apply([entry(1, "anna"), entry(2, "bert")], now_ms=1)
        index.apply([entry(3, "bert")], now_ms=1)
        index.apply([entry(4, "anna")], now_ms=1)
        index.apply([entry(5, "anna", erased=True)], now_ms=1)
    index.apply([entry(6, "anna")], now_ms=1)
    assert seen == [{"raw:0": 1}, {"raw:0": 4}, None]
