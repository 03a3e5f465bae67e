"""Bytes that lie in topics and on disks already: they are read as they were written, and written the same."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from store.base.settings import ScenarioSettings
from store.buffer.back_fill_cursor import BackFillCursor
from store.index.row_meta import RowMeta, pack_meta, unpack_meta
from store.records.back_fill import BackFillRecord
from store.records.embed_messages import EmbedReply, EmbedRequest
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered

EMBEDDING = (
    b"\x8c\xa1v\x01\xa7user_id\xa1u\xa8scenario\xa5churn\xa5mo"
    b"del\xa1m\xa5as_of\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa6covers\x81\xafbeh"
    b"avior.bill:0\x0c\xa6events\x81\xa4bill\xcd\x01,\xabin"
    b"gested_at\x06\xabcomputed_at\x07\xa3dim\x02\xa5dty"
    b"pe\xa2f2\xa6vector\xc4\x04\xcd8f\xba"
)
OF_A_REGISTRATION = (
    b"\x8d\xacregistration\xcf\x00\x00\x01\x8b\xcf\xe5h\x01\xa1v\x01\xa7user_"
    b"id\xa2\xc3\xbc\xa8scenario\xa5churn\xa5model\xa1m\xa5as_"
    b"of\x05\xa6covers\x81\xafbehavior.bill:0\x0c\xa6eve"
    b"nts\x81\xa4bill\x03\xabingested_at\x06\xabcomputed"
    b"_at\x07\xa3dim\x02\xa5dtype\xa2f2\xa6vector\xc4\x04\xcd8f\xba"
)
BACK_FILL = (
    b"\x8b\xa1v\x01\xa8scenario\xa5churn\xa9partition\x01\xacr"
    b"egistration\xcf\x00\x00\x01\x8b\xcf\xe5h\x01\xa5model\xa1m\xa4don"
    b"e\x02\xa5total\xcd\x01,\xa8complete\xc2\xaaupdated_at"
    b"\x04\xa8revision\xce\x00\x01\x11p\xa5error\xa0"
)
BACK_FILL_WITHOUT_REVISION = (
    b"\x89\xa1v\x01\xa8scenario\xa5churn\xa9partition\x01\xacr"
    b"egistration\x05\xa5model\xa1m\xa4done\x02\xa5total"
    b"\x03\xa8complete\xc3\xaaupdated_at\x04"
)
REGISTERED = b"\x84\xa1v\x01\xa5query\xa4Who?\xa6prompt\xa1p\xacregistration\xcf\x00\x00\x01\x8b\xcf\xe5h\x01"
REQUEST = (
    b"\x86\xa1v\x01\xa2id\xa2id\xa7user_id\xa1u\xa5query\xa4Who?\xa6"
    b"prompt\xc0\xaaexpires_at\xcf\x00\x00\x01\x8b\xcf\xe5h\x00"
)
META = b"\x97\xa1m\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\x06\x07\t\x81\xafbehavior.bill:0\x0c\x81\xa4bill\xcd\x01,"
CURSOR = b"\x86\xa1v\x01\xa6target\xc4\x02\x01\xff\xa7attempt\x07\xa5after\xa2\xc3\xbc\xa4done\x03\xa5total\xcd\x01,"

VECTOR = np.array([0.6, -0.8], np.float32)
record = EmbeddingRecord("u", "churn", "m", 1_700_000_000_000, 6, 7, VECTOR, {"behavior.bill:0": 12}, {"bill": 300})


def members(found: EmbeddingRecord) -> list[object]:
    return [getattr(found, name) for name in found.__struct_fields__ if name != "vector"]


def test_embedding_records() -> None:
    assert record.pack() == EMBEDDING
    found = EmbeddingRecord.unpack(EMBEDDING)
    assert members(found) == members(record)
    assert found.vector.dtype == np.float32
    assert found.vector.tolist() == VECTOR.astype(np.float16).tolist()


def test_an_embedding_record_of_a_registration() -> None:
    """The order of a map's keys is no part of the contract: `registration` was first."""
    found = EmbeddingRecord.unpack(OF_A_REGISTRATION)
    assert (found.user_id, found.registration) == ("ü", 1_700_000_000_001)
    assert msgpack.unpackb(found.pack()) == msgpack.unpackb(OF_A_REGISTRATION)


def test_control_records() -> None:
    back_fill = BackFillRecord("churn", 1, 1_700_000_000_001, "m", 2, 300, False, 4, 70_000, "")
    assert BackFillRecord.unpack(BACK_FILL) == back_fill
    assert msgpack.unpackb(back_fill.pack()) == {**msgpack.unpackb(BACK_FILL), "asked": ""}
    old = BackFillRecord.unpack(BACK_FILL_WITHOUT_REVISION)
    assert old == BackFillRecord("churn", 1, 5, "m", 2, 3, True, 4)
    registered = Registered(ScenarioSettings(query="Who?", prompt="p"), 1_700_000_000_001)
    assert (registered.pack(), Registered.unpack(REGISTERED)) == (REGISTERED, registered)


def test_embed_messages() -> None:
    request = EmbedRequest("id", "u", "Who?", None, 1_700_000_000_000)
    assert (request.pack(), EmbedRequest.unpack(REQUEST)) == (REQUEST, request)
    reply = {"v": 1, "id": "id", "record": EMBEDDING, "error": "", "detail": ""}
    assert EmbedReply("id", record).pack() == msgpack.packb(reply)
    refusal = {"v": 1, "id": "id", "record": None, "error": "user_unknown", "detail": "nothing"}
    assert EmbedReply("id", None, "user_unknown", "nothing").pack() == msgpack.packb(refusal)


def test_on_disk() -> None:
    assert pack_meta(record, 9) == META
    assert unpack_meta(META) == RowMeta("m", 1_700_000_000_000, 6, 7, 9, {"behavior.bill:0": 12}, {"bill": 300})
    cursor = BackFillCursor(b"\x01\xff", 7, "ü", 3, 300)
    assert (cursor.pack(), BackFillCursor.unpack(CURSOR)) == (CURSOR, cursor)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2; this version reads 1"),
        ({"v": None}, r"`int`.*`\$\.v`"),
        ({"as_of": "now"}, r"`int`, got `str`.*`\$\.as_of`"),
        ({"model": 1}, r"`str`, got `int`.*`\$\.model`"),
        ({"covers": {"raw:0": 1.5}}, r"`int`, got `float`.*`\$\.covers"),
        ({"covers": [1]}, r"`object`, got `array`.*`\$\.covers`"),
        ({"dtype": "f4"}, r"'f4'.*`\$\.dtype`"),
        ({"dim": 3}, "4 bytes are not 3 values"),
        ({"vector": "text"}, r"`\$\.vector`"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        EmbeddingRecord.unpack(msgpack.packb(msgpack.unpackb(EMBEDDING) | change))


@pytest.mark.parametrize("key", ["v", "user_id", "scenario", "covers", "vector", "dim", "dtype"])
def test_a_missing_key_is_named(key: str) -> None:
    whole = msgpack.unpackb(EMBEDDING)
    with pytest.raises(ValueError, match=f"missing required field `{key}`"):
        EmbeddingRecord.unpack(msgpack.packb({name: value for name, value in whole.items() if name != key}))


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="not an embedding record"):
        EmbeddingRecord.unpack(b"\x82\xa1v\x01\xa3new" + b"\x91" * 100_000)


@pytest.mark.parametrize("raw", [b"", b"\x90", msgpack.packb(["m", 1, 2, 3, 4, {"raw:0": "x"}, {}]), META[:-1]])
def test_other_metadata_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a row's metadata"):
        unpack_meta(raw)
