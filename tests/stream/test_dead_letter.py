"""Headers of dead letters, spelled in one place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.dead_letter import DeadLetterHeaders

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PLACE = st.none() | st.integers(0, 2**63 - 1)


@given(TEXT, st.just("") | TEXT, st.none() | TEXT, PLACE, PLACE, PLACE)
def test_what_is_written_is_read_back(
    error: str, detail: str, topic: str | None, partition: int | None, offset: int | None, truncated: int | None
) -> None:
    headers = DeadLetterHeaders(error, detail, topic, partition, offset, truncated)
    written = headers.encode()
    assert DeadLetterHeaders.decode(written) == headers
    assert all(value for _, value in written)


@given(st.none() | st.lists(st.tuples(st.sampled_from(DeadLetterHeaders._fields), st.none() | st.binary(max_size=4))))
def test_any_foreign_headers_can_be_read(headers: list[tuple[str, bytes | None]] | None) -> None:
    read = DeadLetterHeaders.decode(headers)
    assert read.error
    assert {type(place) for place in read[3:]} <= {int, type(None)}


def test_nothing_said_is_unknown_and_endless_digits_are_no_number() -> None:
    assert DeadLetterHeaders.decode(None) == DeadLetterHeaders("unknown")
    assert DeadLetterHeaders.decode([("source_offset", b"9" * 5000)]).source_offset is None
