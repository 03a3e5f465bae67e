"""From which moment freshness counts."""

from __future__ import annotations

import pytest

from stream.serve.events_feed import believable

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("produced_at", "expected"),
    [
        (NOW - 400, NOW - 400),
        (NOW + 400, NOW + 400),  # clocks differ a little
        (NOW - 6 * 86_400_000, NOW - 6 * 86_400_000),  # ingest was down for days: true, and worth knowing
        (1_500_000_000_000, 0),  # the event's own time
        (NOW // 1000, 0),  # seconds: freshness of 1.8e9 s
        (-1, 0),
        (0, 0),
        (NOW + 86_400_000, 0),
    ],
)
def test_a_timestamp_that_is_not_the_time_of_producing_is_no_beginning(produced_at: int, expected: int) -> None:
    """E15, B17."""
    assert believable(produced_at, NOW) == expected
