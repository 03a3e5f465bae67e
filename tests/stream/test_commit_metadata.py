"""What a worker's commit says of the users that wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.commit_metadata import MAX_WAITING, Waiting, read_waiting, with_waiting, without_waiting

OWN = st.text("AZaz09+/=:")
SECONDS = st.none() | st.floats(0, math.inf, allow_nan=False)


@given(OWN, st.integers(0, 10**9), SECONDS, st.none() | st.integers(0, 2**63))
def test_what_is_said_is_read_and_leaves_the_rest_alone(
    own: str, users: int, seconds: float | None, read: int | None
) -> None:
    said = with_waiting(own, Waiting(users, seconds, read))
    assert without_waiting(said) == own
    assert len(said) <= len(own) + MAX_WAITING
    found = read_waiting(said)
    assert found is not None
    assert (found.users, found.read) == (users, read)
    assert (found.seconds is None) is (seconds is None)
    if seconds is not None and found.seconds is not None:
        assert math.isclose(found.seconds, min(seconds, 1e9), rel_tol=0.01)


@pytest.mark.parametrize(
    "metadata",
    [None, "", "1:AAAA==", "1:AAAA,", "1:AAAA,users=", "1:AAAA,users=x", "a,users=1,seconds=y", "a,users=1,read=z"],
)
def test_others_say_nothing(metadata: str | None) -> None:
    assert read_waiting(metadata) is None
