"""The queue of ad-hoc queries against a naive twin: nobody is lost, answered twice, or overtaken within a query."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from encoder.worker.embed_queue import EmbedQueue, Waiting
from store.base.settings import ScenarioSettings
from store.records.embed_messages import EmbedRequest


def waiting(number: int, user: int = 0, query: int = 0, expires_at: int = 100, partition: int = 0) -> Waiting:
    request = EmbedRequest(str(number), f"u{user}", f"q{query}", None, expires_at)
    return Waiting(partition, request, ScenarioSettings(query=request.query))


requests = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.integers(0, 2)), max_size=30
).map(
    lambda drawn: [
        waiting(number, user, query, expires_at, partition)
        for number, (user, query, expires_at, partition) in enumerate(drawn)
    ]
)


@given(requests, st.integers(1, 4), st.lists(st.integers(0, 1), max_size=40))
def test_batches_are_those_of_a_naive_queue(arriving: list[Waiting], batch_users: int, steps: list[int]) -> None:
    queue, twin = EmbedQueue(batch_users), list[Waiting]()
    left = deque(arriving)
    expired = answered = 0
    now = 0
    for step in [*steps, *[1] * (len(arriving) + 1)]:
        if step == 0 and left:
            queue.add(left[0])
            queue.add(left[0])  # sent again
            twin.append(left.popleft())
            now += 1 if len(left) % 7 == 0 else 0
            continue
        batch = queue.next_batch(now)
        due = [one for one in twin if one.request.expires_at > now]
        assert batch.expired == len(twin) - len(due)
        same = [one for one in due if one.scenario == due[0].scenario]
        users: list[tuple[int, str]] = []
        expected = []
        for one in same:
            if one.user not in users:
                if len(users) == batch_users:
                    break
                users.append(one.user)
            expected.append(one)
        assert batch.requests == expected
        twin = [one for one in due if one not in expected]
        assert len(queue) == len(twin)
        expired, answered = expired + batch.expired, answered + len(expected)
    assert not queue
    assert expired + answered == len(arriving) - len(left)


@given(requests, st.sets(st.integers(0, 2)), st.sets(st.integers(0, 2)))
def test_a_partition_that_goes_takes_its_requests_along(
    arriving: list[Waiting], gone: set[int], usable: set[int]
) -> None:
    queue = EmbedQueue(8)
    for one in arriving:
        queue.add(one)
    queue.drop(gone)
    kept = [one for one in arriving if one.partition not in gone]
    assert len(queue) == len(kept)
    others = [one for one in kept if one.partition not in usable]
    batch = queue.take_others(usable, 1)
    assert batch.requests == [one for one in others if one.request.expires_at > 1]
    assert batch.expired == len(others) - len(batch.requests)
    assert len(queue) == len(kept) - len(others)
    assert all(one.partition in usable for one in queue.next_batch(0).requests)


def test_others_of_the_oldest_query_go_with_it_and_the_rest_keep_their_order() -> None:
    queue = EmbedQueue(2)
    for one in (waiting(0, 0, 0), waiting(1, 1, 1), waiting(2, 2, 0), waiting(3, 0, 0), waiting(4, 3, 0)):
        queue.add(one)
    first = queue.next_batch(0).requests
    # the third of the query is a user of the batch; the fourth would be one too many
    assert [one.request.id for one in first] == ["0", "2", "3"]
    assert [one.request.id for one in queue.next_batch(0).requests] == ["1"]
    assert [one.request.id for one in queue.next_batch(0).requests] == ["4"]
    assert queue.next_batch(0) == ([], 0)
