"""Ad-hoc queries that wait for the worker: batches of one query, oldest first; what nobody waits for is left out."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from store.base.settings import ScenarioSettings
from store.records.embed_messages import EmbedRequest


class Waiting(NamedTuple):
    """A request without an answer. partition: that it came from."""

    partition: int
    request: EmbedRequest
    scenario: ScenarioSettings

    @property
    def user(self) -> tuple[int, str]:
        """Partition and user id."""
        return self.partition, self.request.user_id


class EmbedBatch(NamedTuple):
    """requests: all of one query. expired: how many were dropped on the way."""

    requests: list[Waiting]
    expired: int


class EmbedQueue:
    """Requests in the order of their arrival, each id once: one that is sent again keeps its place.

    Args:
        batch_users: the most users of a batch.
    """

    def __init__(self, batch_users: int) -> None:
        self._batch_users = batch_users
        self._waiting: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: Waiting) -> None:
        """Put a request at the end."""
        self._waiting.setdefault(one.request.id, one)

    def drop(self, partitions: Collection[int]) -> None:
        """Forget what came from these partitions."""
        self._waiting = {name: one for name, one in self._waiting.items() if one.partition not in partitions}

    def next_batch(self, now_ms: int) -> EmbedBatch:
        """Takes out the oldest request and others of the same query, for as many users as a batch may have."""
        live = {name: one for name, one in self._waiting.items() if one.request.expires_at > now_ms}
        expired = len(self._waiting) - len(live)
        requests: list[Waiting] = []
        users: set[tuple[int, str]] = set()
        for one in live.values():
            if requests and one.scenario != requests[0].scenario:
                continue
            if one.user not in users and len(users) == self._batch_users:
                break
            users.add(one.user)
            requests.append(one)
        for one in requests:
            del live[one.request.id]
        self._waiting = live
        return EmbedBatch(requests, expired)

    def take_others(self, partitions: Collection[int], now_ms: int) -> EmbedBatch:
        """Takes out every request, of whatever query, that did not come from these partitions."""
        others = [one for one in self._waiting.values() if one.partition not in partitions]
        live = [one for one in others if one.request.expires_at > now_ms]
        for one in others:
            del self._waiting[one.request.id]
        return EmbedBatch(live, len(others) - len(live))
