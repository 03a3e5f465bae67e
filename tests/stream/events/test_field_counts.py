"""The header by which ingest tells serve which fields events carried."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.field_counts import FieldCounts, OfModality

COUNTS = st.integers(0, 1 << 40)


@given(COUNTS, st.dictionaries(st.text(), st.builds(OfModality, COUNTS, st.dictionaries(st.text(), COUNTS))))
def test_what_is_packed_is_read(at_ms: int, modalities: dict[str, OfModality]) -> None:
    counts = FieldCounts(at_ms, modalities)
    found = FieldCounts.unpack(counts.pack())
    assert found == counts
    assert [list(of.carried) for of in found.modalities.values()] == [list(of.carried) for of in modalities.values()]


@given(st.binary())
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    with contextlib.suppress(ValueError):
        FieldCounts.unpack(value)


@pytest.mark.parametrize(
    "value", [None, b"", msgspec.msgpack.encode((2, 1, {})), msgspec.msgpack.encode((1, 1, {"bill": 3}))]
)
def test_other_versions_and_shapes_are_refused(value: bytes | None) -> None:
    with pytest.raises(ValueError, match="counts of fields"):
        FieldCounts.unpack(value)
