"""What serve hears of scenarios: which there are, and how far the workers' back-fills are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from store.base import logs
from store.base.settings import ScenarioSettings
from store.index.back_fill_board import BackFillBoard
from store.records.back_fill import BackFillRecord
from store.records.scenario import Registered
from store.records.scenario_name import every, split
from stream.kafka.client import Connection
from stream.reading.control_topic import ControlTopic
from stream.scenarios.registry import ScenarioRegistry
from stream.topics import Topics

log = logs.get(__name__)


class Heard(NamedTuple):
    """What `poll` brought."""

    scenarios: bool
    back_fills: bool


class ScenarioFeed:
    """Follows `scenarios` and `back-fills`. For one thread.

    Args:
        configured: scenarios of the configuration.
        candidates: names of candidate models; each computes every scenario too.
        board: where reports on back-fills go.
        make_topics: called by `load` with the names of all that is registered, candidates' included: the topics of a
            new broker may be missing. Raises AnchorstreamError.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        configured: Mapping[str, ScenarioSettings],
        candidates: Collection[str],
        board: BackFillBoard,
        make_topics: Callable[[list[str]], object] = lambda _: None,
    ) -> None:
        self._candidates = tuple(candidates)
        self._board = board
        self._make_topics = make_topics
        self._topic = topics.back_fills
        self.registry = ScenarioRegistry(connection, topics, configured)
        self._back_fills = ControlTopic(connection, topics.back_fills, topics.group_serve, self._report)

    def load(self, stop: threading.Event) -> None:
        """Read both to their ends as of now; leaves early when `stop` is set. Raises BrokerError."""
        self.registry.load(stop)
        if not stop.is_set():
            self._back_fills.load(stop)
        if registered := [] if stop.is_set() else [name for name, of in self.wanted().items() if of.registration]:
            self._make_topics(registered)

    def poll(self) -> Heard:
        """Take in what has come, without waiting. Raises BrokerError."""
        return Heard(self.registry.poll(), self._back_fills.poll() > 0)

    def wanted(self) -> dict[str, Registered]:
        """Every scenario to be served, as the model and as each candidate computes it."""
        scenarios = self.registry.scenarios
        return {name: scenarios[split(name)[0]] for name in every(scenarios, self._candidates)}

    def close(self) -> None:
        """Release the consumers."""
        self.registry.close()
        self._back_fills.close()

    def _report(self, message: Any) -> None:
        try:
            value = message.value()
            if value is not None:
                self._board.put(BackFillRecord.unpack(value))
                return
            scenario, _, partition = (message.key() or b"").decode().rpartition("|")
            self._board.forget(scenario, int(partition))
        except (TypeError, ValueError) as exc:
            log.warning(logs.RECORD_REFUSED, topic=self._topic, offset=message.offset(), detail=str(exc))
