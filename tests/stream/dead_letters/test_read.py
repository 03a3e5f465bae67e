"""Reading dead letters back, from the embedded broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.process import EmbeddedBroker
from store.base.errors import NotFoundError
from stream.dead_letter import RESERVED_BYTES, dead_letter
from stream.dead_letters.read import find, get, preview, read
from stream.kafka.client import Connection
from stream.rejection import ErrorCode, Rejection

TOPIC = "p.dead-letters"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    broker = EmbeddedBroker(Path(tmp_path_factory.mktemp("dlq")) / "broker.json", {TOPIC: 3, "empty": 2})
    producer = broker.connection.producer()
    for n in range(30):
        code = ErrorCode.MISSING_TS if n % 3 else ErrorCode.INVALID_JSON
        topic = "a" if n % 2 else "b"
        letter = dead_letter(Rejection(code, f"fault {n}"), b"user", f"value {n}".encode(), topic, n % 4, n)
        producer.produce(
            TOPIC, letter.value, key=letter.key, headers=letter.headers, partition=n % 3, timestamp=1_000_000 + n
        )
    null = dead_letter(Rejection(ErrorCode.NULL_VALUE, "no value"), None, None, "a", 0, 99)
    producer.produce(TOPIC, null.value, headers=null.headers, partition=0, timestamp=999)
    room = RESERVED_BYTES + 10
    cut = dead_letter(Rejection(ErrorCode.TOO_LARGE, "big"), b"u", b"x" * 100, "a", 0, 100, max_bytes=room)
    producer.produce(TOPIC, cut.value, key=cut.key, headers=cut.headers, partition=1, timestamp=998)
    producer.produce(TOPIC, b"\xff\x00", partition=2, timestamp=997)  # somebody else's, without headers
    assert producer.flush(10) == 0
    yield broker.connection
    broker.stop()


def test_all_are_read_once_and_counted(connection: Connection) -> None:
    steps: list[tuple[int, int]] = []
    letters = list(read(connection, TOPIC, on_progress=lambda done, total: steps.append((done, total))))
    assert len({letter.id for letter in letters}) == 33
    assert steps[-1] == (33, 33)
    listing = find(connection, TOPIC, limit=0)
    assert listing == (
        [], {"missing_ts": 20, "invalid_json": 10, "null_value": 1, "too_large": 1, "unknown": 1}, 33, {}, frozenset(),
    )  # fmt: skip


def test_newest_first_oldest_first_and_filters(connection: Connection) -> None:
    assert [letter.at - 1_000_000 for letter in find(connection, TOPIC, limit=4).letters] == [29, 28, 27, 26]
    assert [letter.at for letter in find(connection, TOPIC, limit=3, oldest_first=True).letters] == [997, 998, 999]
    found = find(connection, TOPIC, error="invalid_json", source_topic="b", limit=2)
    assert found.total == 5
    assert found.counts == {"invalid_json": 5}
    assert [letter.detail for letter in found.letters] == ["fault 24", "fault 18"]


def test_one_letter_whole(connection: Connection) -> None:
    (last,) = find(connection, TOPIC, limit=1).letters
    letter = get(connection, TOPIC, last.partition, last.offset)
    assert letter == last
    assert (letter.value, letter.key) == (b"value 29", b"user")
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("a", 1, 29)
    shown = letter.to_dict()
    assert shown["source"] == "a:1:29"
    assert json.loads(json.dumps(shown)) == shown


def test_odd_letters_are_shown_too(connection: Connection) -> None:
    foreign, cut, null = find(connection, TOPIC, limit=3, oldest_first=True).letters
    assert (foreign.error, foreign.source_topic) == ("unknown", None)
    assert foreign.to_dict()["value"] == "\\xff\\x00"
    assert (cut.truncated, cut.to_dict()["bytes"]) == (100, 100)
    assert (null.value, null.to_dict()["value"]) == (None, None)


@pytest.mark.parametrize("place", [(0, 10_000), (7, 0), (0, -1)])
def test_a_place_without_a_letter(connection: Connection, place: tuple[int, int]) -> None:
    with pytest.raises(NotFoundError):
        get(connection, TOPIC, *place)


def test_an_empty_topic_and_none(connection: Connection) -> None:
    assert find(connection, "empty").total == 0
    with pytest.raises(NotFoundError):
        find(connection, "missing")


@given(st.binary(max_size=300), st.integers(1, 250))
def test_a_preview_is_printable_and_says_if_it_was_cut(data: bytes, limit: int) -> None:
    shown = preview(data, limit)
    assert shown is not None
    assert shown.removesuffix("…").isprintable() or "…" in data.decode("utf-8", "ignore")
    assert (len(data) > limit) <= shown.endswith("…")
    assert preview(None, limit) is None
