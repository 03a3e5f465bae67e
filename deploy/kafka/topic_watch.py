"""Our topics while the roles run: somebody may change their settings, or delete one that no lag is read of."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from deploy.kafka.topic_faults import MEND_COMMAND, judge
from store.base import logs
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.topics import Topics

LOOK_SECONDS = 30.0
TIMEOUT_SECONDS = 5.0
log = logs.get(__name__)


class TopicWatch:
    """What is wrong with them, looked up every LOOK_SECONDS at most. For one thread at a time.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, connection: Connection, topics: Topics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._topics = topics
        self._clock = clock
        self._look_at = clock()
        self._names: frozenset[str] = frozenset()
        self._faults: tuple[str, ...] = ()
        self._told = True

    def faults(self, read: Collection[str]) -> tuple[str, ...]:
        """A line each, as of the last look. None where the broker does not tell.

        Args:
            read: topics that our roles read; those of scenarios among them are looked at.
        """
        if self._connection.embedded:
            return ()
        names = frozenset(read)
        if self._clock() >= self._look_at or names != self._names:
            self._look_at, self._names = self._clock() + LOOK_SECONDS, names
            self._faults = self._look()
        return self._faults

    def _look(self) -> tuple[str, ...]:
        prefix = self._topics.embeddings("")
        scenarios = [self._topics.embeddings_spec(name.removeprefix(prefix)) for name in sorted(self._names)
                     if name.startswith(prefix)]  # fmt: skip
        fixed = self._topics.specs({}, ())
        try:
            judged = judge(self._connection, [*fixed, *scenarios], timeout_s=TIMEOUT_SECONDS)
        except BrokerError as exc:
            if self._told:
                log.warning(logs.TOPIC_DIFFERS, detail=f"not known: {exc.detail}", action=exc.action)
            self._told = False
            return ()
        self._told = True
        missing = [spec.name for spec in fixed if spec.name in judged.missing and spec.name not in self._names]
        return (
            # what is read is in use
            *(line for lines in judged.in_use().values() for line in lines),
            *(f"{name} is not there: {MEND_COMMAND}" for name in missing),
        )
