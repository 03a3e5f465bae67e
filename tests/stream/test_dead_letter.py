"""Headers of dead letters, spelled in one place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.dead_letter import (
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_MESSAGE_BYTES,
    DeadLetterHeaders,
    dead_letter,
    source_headers,
)
from stream.rejection import MAX_DETAIL_CHARS, ErrorCode, Rejection

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
    assert {type(place) for place in read[3:9]} <= {int, type(None)}
    assert {type(read.source_topic), type(read.source_name)} <= {str, type(None)}


def test_nothing_said_is_unknown_and_endless_digits_are_no_number() -> None:
    assert DeadLetterHeaders.decode(None) == DeadLetterHeaders("unknown")
    assert DeadLetterHeaders.decode([("source_offset", b"9" * 5000)]).source_offset is None


NAMES = st.sampled_from(["error", "replayed", "source_topic", "trace-id", "source.x", ""])


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=9)), max_size=9), st.none() | st.integers(-1, 2**62))
def test_the_message_is_kept_with_headers_and_time_stamp(
    headers: list[tuple[str, bytes | None]], timestamp: int | None
) -> None:
    """B16. Also names that are ours, names that come twice, and null values."""
    why = Rejection(ErrorCode.MISSING_TS, "no ts")
    letter = dead_letter(why, b"k", b"v", "raw", 3, 9, timestamp=timestamp, headers=headers)
    assert source_headers(letter.headers) == headers
    said = DeadLetterHeaders.decode(h for h in letter.headers if not h[0].startswith("source."))
    assert said == DeadLetterHeaders("missing_ts", "no ts", "raw", 3, 9, source_timestamp=timestamp)


@given(
    st.integers(0, 2 * MAX_KEY_BYTES),
    st.integers(0, 3 << 20),
    st.lists(st.integers(0, 2 * MAX_HEADER_BYTES), max_size=3),
    st.sampled_from([1 << 20, MAX_MESSAGE_BYTES]),
)
def test_a_letter_fits_whatever_was_refused(key: int, value: int, headers: list[int], max_bytes: int) -> None:
    """B16. One with a key over 1 MiB failed for ever."""
    why = Rejection(ErrorCode.TOO_LARGE, "\U0001f3de" * MAX_DETAIL_CHARS)
    own = [("h", b"h" * n) for n in headers]
    letter = dead_letter(why, b"k" * key, b"v" * value, "t" * 249, 0, 2**62, headers=own, max_bytes=max_bytes)
    size = len(letter.key or b"") + len(letter.value or b"")
    assert size + sum(len(name) + len(content or b"") + 12 for name, content in letter.headers) < max_bytes
    said = DeadLetterHeaders.decode(letter.headers)
    assert said.key_truncated == (key if key > MAX_KEY_BYTES else None)
    assert said.truncated == (value if len(letter.value or b"") < value else None)
    assert len(source_headers(letter.headers)) + (said.headers_left_out or 0) == len(own)
