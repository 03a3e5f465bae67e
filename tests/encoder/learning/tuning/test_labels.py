"""Labels matched with a history: what says nothing is counted by name, and held-out users are in no other part."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.learning.history import History
from encoder.learning.tasks.rows import Split
from encoder.learning.tuning.labels import AFTER_MS, MAX_CLASSES, UNUSABLE, Label, Labelled, match, part_of
from store.base.errors import ConfigError
from tests.support.small_data_set import DAY, START, history

USERS = 300
PAST = history(USERS)
END = START + 60 * DAY


def some(count: int = USERS, names: tuple[str, ...] = ("0", "1")) -> list[Label]:
    return [Label(f"u{u:03}", START + 40 * DAY, names[u % len(names)]) for u in range(count)]


def parts(labelled: Labelled, past: History = PAST) -> dict[Split, set[str]]:
    return {p: {past.users[u] for u in labelled.users[labelled.split == p].tolist()} for p in Split}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(41, 59), st.sampled_from("01")), max_size=200))
def test_a_user_is_in_one_part_whatever_is_labelled(more: list[tuple[int, int, str]]) -> None:
    every = [*some(), *(Label(f"u{u:03}", START + day * DAY, label) for u, day, label in more)]
    found = parts(match(every, PAST))
    assert not found[Split.TEST] & (found[Split.TRAIN] | found[Split.VALIDATION])
    assert not found[Split.TRAIN] & found[Split.VALIDATION]
    assert found == parts(match(some(), PAST))
    assert all(part_of(user) is part for part, users in found.items() for user in users)


def test_about_a_fifth_is_held_out() -> None:
    shares = Counter(part_of(str(n)) for n in range(10_000))
    assert 1_800 < shares[Split.TEST] < 2_200
    assert 1_300 < shares[Split.VALIDATION] < 1_700


def test_what_says_nothing_is_left_out_by_name() -> None:
    at = START + 40 * DAY
    odd = [
        Label("nobody", at, "1"),
        Label("u001", START - DAY, "1"),
        Label("u001", END + 2 * AFTER_MS, "1"),
        Label("u002", at, "0"), Label("u002", at, "0"),
        Label("u003", at + 1, "0"), Label("u003", at + 1, "1"), Label("u003", at + 1, "1"),
    ]  # fmt: skip
    found = match([*some(), *odd], PAST)
    assert found.left_out == {
        "of users without an event": 1, "before the user's first event": 1, "after the history's end": 1,
        "said twice": 2, "with two answers at one time": 3,
    }  # fmt: skip
    assert len(found.users) == USERS
    assert found.names == ["0", "1"]
    assert sum(sum(own.values()) for own in found.counts().values()) == USERS


def test_the_order_of_labels_changes_nothing() -> None:
    one, other = match(some(), PAST), match(some()[::-1], PAST)
    for name in ("users", "now", "classes", "split"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "no label is of a user"),
        ([Label("nobody", START + DAY, "1")], "1 of users without an event"),
        (some(names=("1",)), "all 300 labels are '1'"),
        (some(12), "too few labels"),
        (some(names=tuple(map(str, range(MAX_CLASSES + 1)))), "33 different labels"),
    ],
)
def test_labels_that_no_prompt_can_be_tuned_by_are_refused(labels: list[Label], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        match(labels, PAST)
    assert refused.value.code == UNUSABLE
    assert refused.value.action
