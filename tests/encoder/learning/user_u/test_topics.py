"""Topics are of what was said before training ends, and are named by what is said most."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.learning.user_u import topics
from tests.support.small_data_set import COFFEE, DAY, START, TEA, history
from tests.support.windows import vector


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TOPICS", 2)
    monkeypatch.setattr(topics, "MIN_TEXTS", 2)


def test_topics_are_named_by_what_is_said_most() -> None:
    past = history(12)
    said = {vector(TEA).tobytes(): "tea", vector(COFFEE).tobytes(): "coffee"}
    found = topics.find(
        past, lambda row: said[past.vectors[row].tobytes()], until=START + 60 * DAY, seed=0, weight=1.0
    )  # fmt: skip
    assert len(found.aspects) == 4, "two of each modality"
    for aspect in found.aspects:
        (row,) = np.flatnonzero(found.of[aspect.modality] == aspect.topic)
        assert all(said[past.vectors[row].tobytes()] in question for question in aspect.questions)
    assert sum(aspect.weight for aspect in found.aspects) == pytest.approx(2.0)


def test_what_is_said_later_is_of_no_topic() -> None:
    past = history(12)
    found = topics.find(past, lambda row: "x", until=START, seed=0, weight=1.0)
    assert not found.aspects
    assert not found.of


def test_nothing_is_asked_of_a_topic_whose_text_nobody_knows() -> None:
    past, tea = history(12), vector(TEA).tobytes()
    found = topics.find(
        past, lambda row: "tea" if past.vectors[row].tobytes() == tea else None, until=START + 60 * DAY, seed=0,
        weight=1.0,
    )  # fmt: skip
    assert len(found.aspects) == 2
    for aspect in found.aspects:
        (row,) = np.flatnonzero(found.of[aspect.modality] == aspect.topic)
        assert past.vectors[row].tobytes() == tea
