"""Which scenarios the worker computes: those of the registry, each by every model, as they come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.worker.targets import Target
from store.base import logs, metrics
from store.base.errors import WeightsError
from store.base.settings import ScenarioSettings
from store.records.scenario import Registered, asked
from store.records.scenario_name import split
from store.window.user_window import UserWindow

log = logs.get(__name__)


MISSING_SECONDS = 3.0
"""Whoever deletes a topic to make it anew, with settings of his own perhaps, does so within this. A worker that cannot
publish may look once a transaction, so it may take a minute. Longer, and `writer_fenced` may end it first."""


class Encoder(Protocol):
    """What the worker needs of `ModelSet`. Names may be candidates' (store/records/scenario_name.py)."""

    @property
    def scenarios(self) -> list[str]: ...

    def names_of(self, scenario: str) -> list[str]: ...

    def add_scenario(self, name: str, scenario: ScenarioSettings) -> None: ...

    def remove_scenario(self, name: str) -> None: ...

    def model_id(self, scenario: str) -> str: ...

    def tokens_of(self, scenarios: Sequence[str]) -> int: ...

    def encode(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]: ...


class Registry(Protocol):
    """What is needed of `stream.scenarios.registry.ScenarioRegistry`."""

    @property
    def scenarios(self) -> Mapping[str, Registered]: ...

    def load(self, stop: threading.Event) -> None: ...

    def poll(self) -> bool: ...

    def close(self) -> None: ...


class TopicIds(Protocol):
    """What is needed of `EmbeddingTopicIds`."""

    def ask(self, scenarios: Iterable[str], stop: threading.Event) -> dict[str, str]: ...

    def look(self, scenarios: Iterable[str]) -> dict[str, str]: ...

    def missing(self, scenarios: Iterable[str]) -> list[str]: ...

    def close(self) -> None: ...


class Unusable(NamedTuple):
    """A registered scenario that a model cannot compute. error: `code: detail`."""

    registration: int
    error: str


class LiveScenarios:
    """Keeps an encoder's scenarios as the registry has them, and knows the topic of each. For the worker's thread.

    A topic that was deleted and made anew makes its scenario another target: everybody is computed for it. One that is
    deleted and not made anew holds up all scenarios, since a transaction has them all: after a while it is made here.

    A scenario that a model cannot compute (its soft prompt is missing or does not fit) is left out, logged, exported as
    a metric and told in the records of its back-fill; all others go on. Registering it again tries again. A scenario of
    the configuration was loaded before: if that failed, the worker did not start.

    Args:
        registry: of the scenarios, those of the configuration among them; closed by `close`.
        encoder: with the scenarios of the configuration.
        make_topics: sees to it that the topics of scenarios exist; called with the names of all that are registered,
            before one that is new is a target, and with those of topics that are missing for long.
        topic_ids: of those topics; closed by `close`.
    """

    def __init__(
        self,
        registry: Registry,
        encoder: Encoder,
        make_topics: Callable[[Sequence[str]], object],
        topic_ids: TopicIds,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.encoder = encoder
        self.targets: tuple[Target, ...] = ()
        """Of everything that can be computed, by name."""
        self.unusable: dict[str, Unusable] = {}
        self.tail_tokens: dict[str, int] = {}
        """By name: what a user costs beside the events."""
        self._registry = registry
        self._make_topics = make_topics
        self._topic_ids = topic_ids
        self._clock = clock
        self._missing: dict[str, float] = {}
        self._ids: dict[str, str] = {}
        self._stop = threading.Event()
        self._known: Mapping[str, Registered] = {}

    @property
    def names(self) -> list[str]:
        """Of the targets."""
        return [target.scenario for target in self.targets]

    @property
    def registered(self) -> list[str]:
        """Names of the targets that the configuration does not have."""
        return [target.scenario for target in self.targets if target.registration]

    def revision(self, name: str) -> int:
        """Of a scenario's record in the registry, or its candidate's; 0 = configured."""
        return self._known[_base(name)].revision

    def asked(self, name: str) -> str:
        """What a scenario, or its candidate's, asks (store/records/scenario.py)."""
        return asked(self._known[_base(name)].settings)

    def load(self, stop: threading.Event) -> None:
        """Read the registry. Raises BrokerError; KafkaException: the broker does not tell the topics' ids."""
        self._stop = stop
        self._registry.load(stop)
        self._follow()

    def poll(self) -> bool:
        """Take in what has come; whether anything changed. Waits only for topics: of what did, and those missing.

        Raises:
            BrokerError, KafkaException: as `load`; or a topic that is missing may not be made.
        """
        if self._registry.poll():
            self._follow()
            return True
        changed = self._learn(self._topic_ids.look(self.names))
        self._make_missing()
        return changed

    def close(self) -> None:
        """Stop reading the registry, and asking for topics."""
        self._registry.close()
        self._topic_ids.close()

    def _make_missing(self) -> None:
        now = self._clock()
        self._missing = {name: self._missing.get(name, now) for name in self._topic_ids.missing(self.names)}
        due = [name for name, since in self._missing.items() if now - since >= MISSING_SECONDS]
        if due:
            self._missing = {}  # another while before the next attempt
            log.warning(
                logs.TOPIC_MISSING,
                scenarios=due,
                detail="their topics were deleted, and nothing can be published for any scenario: they are made anew",
            )
            self._make_topics(due)

    def _learn(self, found: Mapping[str, str]) -> bool:
        """Ids of topics; a topic that is not there now is still the one that was. Whether a target changed."""
        for name, id_ in found.items():
            if (before := self._ids.get(name)) not in (None, id_):
                log.warning(
                    logs.TOPIC_MADE_ANEW,
                    scenario=name,
                    topic_id=id_,
                    before=before,
                    detail="its topic was deleted and made anew: all users are computed for it again",
                )
        self._ids |= found
        targets = tuple(target._replace(topic=self._ids.get(target.scenario, "")) for target in self.targets)
        changed, self.targets = targets != self.targets, targets
        return changed

    def _follow(self) -> None:
        wanted = self._registry.scenarios
        for scenario in self._known.keys() - wanted.keys():
            for name in self.encoder.names_of(scenario):
                self._remove(name)
                metrics.forget_scenario("worker", name)
        there = set(self.encoder.scenarios)
        for scenario, entry in wanted.items():
            if entry == self._known.get(scenario):
                continue
            for name in self.encoder.names_of(scenario):
                if entry.revision or name not in there:
                    self._add(name, entry)
        self._known = wanted
        targets = [
            Target(name, wanted[_base(name)].registration, self.encoder.model_id(name))
            for name in self.encoder.scenarios
            if _base(name) in wanted
        ]
        if registered := [target.scenario for target in targets if target.registration]:
            self._make_topics(registered)
        self.targets = tuple(sorted(targets))
        self._learn(self._topic_ids.ask(self.names, self._stop))
        self.tail_tokens = {name: self.encoder.tokens_of([name]) for name in self.names}

    def _add(self, name: str, entry: Registered) -> None:
        self._remove(name)
        try:
            self.encoder.add_scenario(name, entry.settings)
        except WeightsError as exc:
            self.unusable[name] = Unusable(entry.registration, f"{exc.code}: {exc.detail}")
            metrics.SCENARIO_UNUSABLE.labels(name).set(1)
            log.warning(logs.SCENARIO_UNUSABLE, scenario=name, error=exc.code, detail=exc.detail, action=exc.action)

    def _remove(self, name: str) -> None:
        self.encoder.remove_scenario(name)
        if self.unusable.pop(name, None) is not None:
            metrics.SCENARIO_UNUSABLE.remove(name)


def _base(name: str) -> str:
    return split(name)[0]
