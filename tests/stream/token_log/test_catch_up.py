"""What is far behind is read in slices, and left when little remains."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from stream.settings import KafkaSettings
from stream.token_log import catch_up as catch_up_module
from stream.token_log.catch_up import NEAR_ROWS, CatchUp, Round
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source

PARTITIONS = 2
USERS = ["user-0", "user-1", "user-2", "user-3"]


@given(st.integers(1, 10**8), st.lists(st.integers(0, 10**8), min_size=40, max_size=40))
def test_rounds_end_whatever_is_written_meanwhile(rows: int, written: list[int]) -> None:
    """And at the end of the last one as little is left as may be, unless more came in it than half of what it read."""
    round_, at, rounds = Round(rows, rows), 0, 0
    while True:
        assert round_.next(at, at + 1) is round_, "not before its end"
        at = round_.end
        high = at + written[rounds]
        following = round_.next(at, high)
        if following is None:
            break
        assert following == (high, high - at)
        round_, rounds = following, rounds + 1
        assert rounds <= 28
    assert high - at <= NEAR_ROWS or high - at > round_.rows // 2


def test_a_slice_is_short_and_nothing_is_left_out(
    shared_embedded_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two partitions at once; each is marked dirty on disk from its `mark_from` on."""
    monkeypatch.setattr(catch_up_module, "SLICE_ROWS", 5)
    connection = shared_embedded_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=PARTITIONS))
    ensure(connection, topics.specs(MODALITIES, ()))
    source = Source(connection, topics, tmp_path / "source")
    source.send(40)
    replicas = [worker_bench.buffers(connection, tmp_path / "replica", replica=True).open(p) for p in range(PARTITIONS)]
    ends = [buffer.log_offset for buffer in source.buffers]
    ticks = count()
    catch_up = CatchUp(connection, topics.tokens, lambda: next(ticks))
    assert not catch_up
    assert catch_up.poll(0.0) == 0
    for _ in range(2):  # given, taken away, given again
        for p in range(PARTITIONS):
            where = catch_up.add(p, replicas[p], end=ends[p], mark_from=0 if p else ends[p])
            assert (where.partition, where.offset) == (p, replicas[p].log_offset)
        assert catch_up
        for _ in range(2):  # so few rows that neither partition can be at its end
            assert catch_up.poll(5.0) <= 5 + 1
        assert catch_up.near() == []
        for p in range(PARTITIONS):
            catch_up.remove(p)
            catch_up.remove(p)
            assert p not in catch_up
        assert not catch_up
    for p in range(PARTITIONS):
        catch_up.add(p, replicas[p], end=ends[p], mark_from=0 if p else ends[p])
    while len(catch_up.near()) < PARTITIONS:
        assert catch_up.poll(5.0) <= 5 + 1
    for p in range(PARTITIONS):
        catch_up.remove(p)
        assert replicas[p].log_offset == ends[p]
        users = source.buffers[p].users()
        assert {user: replicas[p].window(user).events for user in users} == {
            user: source.buffers[p].window(user).events for user in source.buffers[p].users()
        }
        assert bool(replicas[p].dirty) == bool(p)
        replicas[p].close()
