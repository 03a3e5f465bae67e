"""The judge of histories finds what it is there for, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from store.records.embedding import DIM, EmbeddingRecord
from store.window.rows import Summary, pack_summary, summary_key
from stream.token_log.ownership import OWNER_HEADER
from tests.crash.history import Departures, Embeddings
from tests.crash.verdict import Verdict, compare_letters

OLD, NEW = b"\0\0\0\1\0\0\0\0", b"\0\0\0\2\0\0\0\0"


class Record(NamedTuple):
    """As much of a message as is looked at."""

    its_key: bytes
    its_value: bytes | None
    owner: bytes = OLD

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0

    def key(self) -> bytes:
        return self.its_key

    def value(self) -> bytes | None:
        return self.its_value

    def headers(self) -> list[tuple[str, bytes]]:
        return [(OWNER_HEADER, self.owner)]


def summary(covers: dict[str, int] | None, owner: bytes = OLD, modality: str = "click") -> Record:
    """A window as of then; None: it is gone."""
    value = None if covers is None else pack_summary(Summary(0, 0, 0, np.zeros(4, np.float32), (), (), covers, 0))
    return Record(summary_key("u", modality), value, owner)


def embedding(covers: dict[str, int] | None) -> Record:
    vector = np.eye(DIM, dtype=np.float32)[0]
    value = None if covers is None else EmbeddingRecord("u", "churn", "m", 0, 0, 0, vector, covers).pack()
    return Record(b"u", value)


@pytest.mark.parametrize(
    ("tokens", "embeddings", "regressed"),
    [
        pytest.param([{"a:0": 1}, {"a:0": 2}], [{"a:0": 1}, {"a:0": 2}], 0, id="forward"),
        pytest.param([{"a:0": 2}], [{"a:0": 2}, {"a:0": 1}, {"a:0": 2}], 1, id="back, and forward again"),
        pytest.param([{"a:0": 2}, {"a:0": 1}], [], 1, id="back in tokens"),
        pytest.param([{"a:0": 2}], [{"a:0": 2}, {"a#1:0": 1}], 1, id="a source is forgotten"),
        pytest.param([{"a:0": 2}], [{"a:0": 2}, {"a:0": 2, "a#1:0": 1}], 0, id="a topic made anew"),
        pytest.param([{"a:0": 2}, None], [{"a:0": 2}, None], 0, id="gone"),
        pytest.param([{"a:0": 2}], [{"a:0": 2}, None], 1, id="null of a user who is there"),
        pytest.param([{"a:0": 1}, None, {"a:0": 3}], [{"a:0": 1}, None, {"a:0": 3}], 0, id="back after leaving"),
        pytest.param([{"a:0": 1}, None, {"a:0": 3}], [{"a:0": 3}, None], 1, id="null behind what is newer"),
        pytest.param(
            [{"a:0": 1, "b:0": 1}, None, {"a:0": 3}], [{"a:0": 1, "b:0": 1}, {"a:0": 3}], 0, id="unseen leave"
        ),
    ],
)
def test_what_goes_back_is_found(
    tokens: list[dict[str, int] | None], embeddings: list[dict[str, int] | None], regressed: int
) -> None:
    verdict, departures, judge = Verdict(), Departures(1), Embeddings()
    for covers in tokens:
        departures.take(verdict, summary(covers))
    for covers in embeddings:
        judge.take(verdict, embedding(covers), departures)
    assert verdict.counts["regressed"] == regressed
    assert verdict.counts.total() == regressed


def test_a_user_leaves_with_the_last_window_and_by_the_owners_word() -> None:
    verdict, departures = Verdict(), Departures(1)
    for record in (summary({"a:0": 1}), summary({"b:0": 1}, NEW, "pay"), summary(None, NEW), summary(None, OLD, "pay")):
        departures.take(verdict, record)
    assert not departures.explain("u", {"b:0": 1})
    departures.take(verdict, summary(None, NEW, "pay"))
    assert departures.explain("u", {"a:0": 1, "b:0": 1})
    assert not departures.explain("u", {"b:0": 2})


def test_letters_are_compared_by_place() -> None:
    verdict = Verdict()
    want = {("a", 0, 1): "invalid_json", ("a", 0, 2): "ts_too_old", ("a#1", 0, 1): "null_value"}
    got = {("a", 0, 1): "invalid_json", ("a", 0, 2): "invalid_ts", ("a", 0, 3): "invalid_ts"}
    compare_letters(verdict, got, want)
    assert verdict.counts == {"lost": 1, "mismatched": 2}
    with pytest.raises(AssertionError, match="lost 1, doubled 0, mismatched 2"):
        verdict.demand_innocence()
