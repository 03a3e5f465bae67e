"""A member in its group: how long partitions are out of use here while they move, and whether it still is a member."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from store.base import logs, metrics
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.patience import within

JOIN_SECONDS = 45.0
"""A group that is being rebalanced, on a busy broker, takes seconds; a coordinator that is being elected too."""
CLOSE_SECONDS = 20.0
"""Leaving takes one answer of the coordinator, and the last commit."""
ASK_EVERY_SECONDS = 5.0
"""Of the broker, while a member has no partitions."""
_ASK_SECONDS = 2.0
_LOOK_SECONDS = 1.0
log = logs.get(__name__)


class Rebalance:
    """One per role. The group calls `lost` and `given`, whoever opens partitions calls `usable`; two threads may.

    A group takes all partitions away and gives them out anew at once, so one clock serves them all. What a member that
    died took with it, until its session timed out, is not seen here: lag shows it.
    """

    def __init__(self, role: str, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._role = role
        self._clock = clock
        self._lost_at = -math.inf
        self._given_at = clock()
        self._away = 0.0
        """From the latest loss until `given`; infinite while that is not known."""

    def lost(self) -> None:
        """Partitions were taken away. Again before `given`: the first time counts."""
        if self._away < math.inf:
            self._lost_at = self._clock()
            self._away = math.inf

    def given(self) -> float:
        """Partitions were given. Returns how long this process had none, seconds; 0 for a member that joins."""
        self._given_at = self._clock()
        self._away = self._given_at - self._lost_at if self._away == math.inf else 0.0
        return self._away

    def usable(self, partition: int, *, opening: float | None = None) -> float:
        """A partition works again. Logs and exports how long it did not, seconds, and returns it.

        Args:
            opening: seconds that opening and restoring it took; None = all the time since `given`. A partition that is
                opened when it is first needed was not waited for until then.
        """
        now = self._clock()
        if opening is None:
            opening = now - self._given_at
        # its first events may come before `given`: then it was out of use until its opening began
        away = min(self._away, max(0.0, now - opening - self._lost_at))
        seconds = away + opening
        metrics.REBALANCE_SECONDS.labels(self._role).observe(seconds)
        log.info(logs.PARTITION_USABLE, partition=partition, seconds=round(seconds, 3), opening=round(opening, 3))
        return seconds


def leave(consumer: Any, seconds: float = CLOSE_SECONDS) -> bool:
    """Close a group's consumer; whether it is closed. What hangs is said, and left to the end of the process.

    librdkafka 2.16 may never end to close one that has lost sight of its coordinator; a role that waited for it could
    neither end, nor say why it had to, nor be started anew. What its callbacks raise is raised.
    """
    left = within(seconds, consumer.close, "leave")
    if not left:
        log.warning(logs.GROUP_NOT_LEFT, seconds=seconds)
    return left


class Membership:
    """Whether one consumer that has subscribed is a member. For its thread.

    librdkafka 2.16 may lose sight of its coordinator when a broker is away twice in a row, and then never joins again,
    without an error; it may keep its old id. A new client joins at once, so the role ends and is started anew. Time
    without a broker does not count. A member without partitions is asked for at the broker: there may be too few.
    """

    def __init__(self, connection: Connection, group: str, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._connection = connection
        self._group = group
        self._clock = clock
        self._unknown_since: float | None = None
        """Since when the broker has answered, each time it was asked, that it has no such member."""
        self._without = False
        self._look_at = -math.inf

    def look(self, consumer: Any) -> None:
        """Call it often. Without partitions it may wait for the broker's answer, 2 s.

        Raises:
            BrokerError: no member for JOIN_SECONDS in which the broker answered.
        """
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if consumer.assignment() and consumer.memberid():
            self._without, self._unknown_since = False, None
            return
        known = self._known(consumer.memberid()) if self._without else None
        self._look_at = now + (JOIN_SECONDS if known else ASK_EVERY_SECONDS)
        self._without = True
        if known is not False:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        elif now - self._unknown_since >= JOIN_SECONDS:
            self._unknown_since = None
            raise BrokerError(
                f"not a member of {self._group} for {JOIN_SECONDS:g} s, though the broker answers",
                action="a role under `anchorstream up` or Kubernetes starts anew by itself; else start it again",
                code="group_not_joined",
            )

    def _known(self, member: str) -> bool | None:
        """Whether the group has this member; None: the broker does not say, and so nobody can join."""
        admin = self._connection.admin()
        try:
            # deprecated in favour of what ends the process (stream/lag/group_offsets.py)
            found = admin.list_groups(group=self._group, timeout=_ASK_SECONDS)
        except KafkaException:
            return None
        if any(of.error is not None for of in found):
            return None
        return any(of.id == self._group and member in {str(one.id) for one in of.members} for of in found)
