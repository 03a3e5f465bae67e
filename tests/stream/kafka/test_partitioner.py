"""Our murmur2 equals Kafka's: values from Apache Kafka's own UtilsTest, and librdkafka as a second opinion."""

from __future__ import annotations

import pytest

from stream.kafka.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_known_values(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


def test_partition_is_in_range_and_spread() -> None:
    seen = [partition_of(f"user-{i}", 7) for i in range(7000)]
    assert set(seen) == set(range(7))
    assert max(seen.count(p) for p in range(7)) < 1.2 * 1000
