"""What groups have committed and who is in them, asked so that a broker may go and come back.

An admin client's questions to a group's *coordinator* (list_consumer_group_offsets, describe_consumer_groups) do not
survive a broker's restart: they fail for good, and at the next one librdkafka ends the process (an assertion in
rdkafka_queue.h; librdkafka issues 3663 and 4605). So commits are asked by a consumer per group, which never joins it,
and members by `list_groups`, which asks every broker.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from stream.commit_metadata import Waiting, decode, read_waiting
from stream.kafka.client import Connection
from stream.kafka.group_client import GroupClient
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.patience import patiently
from stream.raw_counts import read_counts

Partition = tuple[str, int]
"""Topic, partition."""

MEMBERS_SECONDS = 2.0
"""Longest wait for a group's members: a verdict can do without them."""


class Committed(NamedTuple):
    """offset: next to read. topic_id: of the topic that it was committed of, where the role says so: ingest does.

    waiting: where the role says so: the worker does. refused: messages refused so far, as ingest says.
    """

    offset: int
    topic_id: str | None = None
    waiting: Waiting | None = None
    refused: int = 0


class GroupOffsets:
    """Asks all groups at the same time. For one thread."""

    def __init__(self, connection: Connection, admin: LastingAdmin, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._admin = admin
        self._timeout = timeout_seconds
        self._clients: dict[str, GroupClient] = {}
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="group-offsets")

    def committed(
        self, asked: Mapping[str, Sequence[Partition]]
    ) -> tuple[dict[str, dict[Partition, Committed]], dict[str, KafkaException]]:
        """Per group its committed offsets (absent where there is none), and the groups that could not be asked."""
        for group in self._clients.keys() - asked.keys():
            self._clients.pop(group).close()
        answers = {}
        for group, partitions in asked.items():
            if group not in self._clients:
                self._clients[group] = GroupClient(self._connection, group)
            answers[group] = self._pool.submit(self._ask, self._clients[group], partitions)
        found, failed = {}, {}
        for group, answer in answers.items():
            try:
                found[group] = answer.result()
            except KafkaException as exc:
                failed[group] = exc
        return found, failed

    def members(self, groups: Sequence[str]) -> dict[str, int | None]:
        """Members of each group; None where no broker told. The embedded broker never does."""
        if self._connection.embedded:
            return dict.fromkeys(groups)
        return dict(zip(groups, self._pool.map(self._count, groups), strict=True))

    def close(self) -> None:
        """Release the consumers."""
        self._pool.shutdown()
        while self._clients:
            self._clients.popitem()[1].close()

    def _ask(self, client: GroupClient, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        client.poll()  # its log and errors wait there
        wanted = [TopicPartition(*p) for p in partitions]

        def ask() -> list[Any]:
            answer: list[Any] = client.committed(wanted, timeout=self._timeout)
            if errors := [tp.error for tp in answer if tp.error is not None]:
                raise KafkaException(errors[0])
            return answer

        # a broker that has just started is still loading its groups
        answer = patiently(ask, threading.Event(), seconds=self._timeout)
        return {(tp.topic, tp.partition): _read(tp) for tp in answer if tp.offset >= 0}

    def _count(self, group: str) -> int | None:
        try:
            # deprecated in favour of what ends the process, see above
            found = self._admin.client.list_groups(group=group, timeout=MEMBERS_SECONDS)
        except KafkaException:
            return None
        if any(of.error is not None for of in found):
            return None
        return sum(len(of.members) for of in found if of.id == group)


def _read(tp: Any) -> Committed:
    counts = read_counts(tp.metadata)
    refused = 0 if counts is None else sum(counts.refused.values())
    return Committed(tp.offset, decode(tp.metadata).get("topic"), read_waiting(tp.metadata), refused)
