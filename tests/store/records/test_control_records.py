"""What goes over the control topics comes back as it was; anything else is refused with ValueError."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import ScenarioSettings
from store.records.back_fill import BackFillRecord
from store.records.embed_messages import EmbedReply, EmbedRequest
from store.records.embedding import DIM, EmbeddingRecord
from store.records.scenario import Registered

text = st.text(max_size=40)
whole = st.integers(0, 2**53)
record = st.builds(
    EmbeddingRecord,
    user_id=text,
    scenario=text,
    model=text,
    as_of=whole,
    ingested_at=whole,
    computed_at=whole,
    vector=st.just(np.eye(1, DIM, dtype=np.float32)[0]),
    registration=whole,
)


@given(st.builds(Registered, st.builds(ScenarioSettings, query=st.text(min_size=1), prompt=st.none() | text), whole))
def test_scenario(registered: Registered) -> None:
    assert Registered.unpack(registered.pack()) == registered


@given(st.builds(BackFillRecord, text, whole, whole, text, whole, whole, st.booleans(), whole, whole, text))
def test_back_fill(found: BackFillRecord) -> None:
    assert BackFillRecord.unpack(found.pack()) == found


@given(st.builds(EmbedRequest, text, text, text, st.none() | text, whole))
def test_embed_request(request: EmbedRequest) -> None:
    assert EmbedRequest.unpack(request.pack()) == request


@given(text, record)
def test_embed_reply(name: str, answer: EmbeddingRecord) -> None:
    found = EmbedReply.unpack(EmbedReply(name, answer).pack())
    assert (found.id, found.error) == (name, "")
    assert found.record is not None
    assert found.record.pack() == answer.pack()
    assert found.record.registration == answer.registration
    assert EmbedReply.unpack(EmbedReply("x", None, "code", "d").pack()) == EmbedReply("x", None, "code", "d")


@pytest.mark.parametrize(
    "unpack", [Registered.unpack, BackFillRecord.unpack, EmbedRequest.unpack, EmbedReply.unpack, EmbeddingRecord.unpack]
)
@given(value=st.binary(max_size=30) | st.sampled_from([b"\x80", b"\x81\xa1v\x01", b"\x81\xa1v\x02"]))
def test_anything_else_is_refused(unpack: Callable[[bytes], object], value: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an? |lacks"):
        unpack(value)


@given(st.sampled_from(sorted(BackFillRecord.__struct_fields__)), st.none() | st.floats() | st.lists(whole))
def test_a_back_fill_record_of_other_types_is_refused(member: str, value: object) -> None:
    good = msgpack.unpackb(BackFillRecord("a", 0, 1, "m", 2, 3, False, 4).pack())
    with pytest.raises(ValueError, match=member):
        BackFillRecord.unpack(msgpack.packb({**good, member: value}))


@given(
    st.dictionaries(
        st.sampled_from(["id", "user_id", "query", "prompt", "expires_at", "record", "error", "detail"]),
        st.none() | st.booleans() | st.text(max_size=3) | st.binary(max_size=3) | st.lists(whole, max_size=2),
    )
)
def test_an_embed_message_of_other_types_is_refused_or_has_the_right_ones(members: dict[str, object]) -> None:
    packed = msgpack.packb({"v": 1, **members})
    with suppress(ValueError):
        request = EmbedRequest.unpack(packed)
        assert all(isinstance(value, str) for value in (request.id, request.user_id, request.query))
        assert isinstance(request.expires_at, int)
    with suppress(ValueError):
        reply = EmbedReply.unpack(packed)
        assert all(isinstance(value, str) for value in (reply.id, reply.error, reply.detail))
        assert (reply.record is None) is bool(reply.error)


def test_a_reply_without_record_or_error_is_refused() -> None:
    packed = msgpack.packb({"v": 1, "id": "x", "record": None, "error": "", "detail": ""})
    with pytest.raises(ValueError, match="either a record or an error"):
        EmbedReply.unpack(packed)
