"""The embedding record keeps its published contract."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.index.row_meta import pack_meta, unpack_meta
from store.records.embedding import EmbeddingRecord


def record(**changes: object) -> EmbeddingRecord:
    vector = np.random.default_rng(0).normal(size=128).astype(np.float32)
    values: dict[str, object] = {
        "user_id": "u",
        "scenario": "churn",
        "model": "m",
        "as_of": 5,
        "ingested_at": 6,
        "computed_at": 7,
        "vector": vector / np.linalg.norm(vector),
        "covers": {"behavior.bill:0": 12},
        "events": {"bill": 3},
    }
    return EmbeddingRecord(**(values | changes))  # type: ignore[arg-type]


def test_wire_keys_are_the_contract() -> None:
    raw = msgpack.unpackb(record().pack())
    assert list(raw) == [
        "v", "user_id", "scenario", "model", "as_of", "covers", "events",
        "ingested_at", "computed_at", "dim", "dtype", "vector",
    ]  # fmt: skip
    assert (raw["v"], raw["dim"], raw["dtype"], len(raw["vector"])) == (1, 128, "f2", 256)


def test_round_trip_keeps_the_direction() -> None:
    sent = record()
    back = EmbeddingRecord.unpack(sent.pack())
    assert (back.covers, back.events, back.as_of) == (sent.covers, sent.events, sent.as_of)
    assert abs(np.linalg.norm(back.vector) - 1) <= 1.3e-4
    assert back.vector @ sent.vector / np.linalg.norm(back.vector) > 1 - 1e-6


def test_the_newest_event_is_said_where_the_vector_stands_later() -> None:
    assert "newest_event" not in msgpack.unpackb(record(newest_event=5).pack())
    silent = record(as_of=9, newest_event=5)
    assert msgpack.unpackb(silent.pack())["newest_event"] == 5
    assert EmbeddingRecord.unpack(silent.pack()).newest_event == 5
    for one in (silent, record(newest_event=5), record()):
        assert one.newest_event == 5
        meta = unpack_meta(pack_meta(one, 1))
        assert (meta.as_of, meta.newest_event or meta.as_of) == (one.as_of, 5)


def test_a_later_versions_extra_key_is_ignored() -> None:
    raw = msgpack.unpackb(record().pack()) | {"new": 1}
    assert EmbeddingRecord.unpack(msgpack.packb(raw)).user_id == "u"


@given(st.binary(max_size=80))
def test_garbage_is_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="embedding record"):
        EmbeddingRecord.unpack(value)


@pytest.mark.parametrize("change", [{"v": 2}, {"dtype": "f4"}, {"dim": 64}])
def test_what_it_cannot_read_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="embedding record"):
        EmbeddingRecord.unpack(msgpack.packb(msgpack.unpackb(record().pack()) | change))
