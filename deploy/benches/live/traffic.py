"""Sends events at a steady rate and asks over HTTP for answers that cover them.

The clock of an answer starts when its event is handed to the producer and ends when the answer has been read. Events
are sent on time whatever becomes of the answers, so a system that is slow is asked as often as one that is fast. An
answer that does not come counts with the time it was waited for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from deploy.benches.live.population import Population, RawEvent
from deploy.operate.service_client import Service, ServiceError, quote
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.topics import TopicSpec

WAIT_MS = 20_000
"""How long an answer is waited for."""
ASKERS = 64
FLUSH_SECONDS = 120.0


class Sent(NamedTuple):
    """A delivered event. source: "topic:partition" of the raw message. produced_ms: its timestamp."""

    event: RawEvent
    source: str
    offset: int
    produced_ms: int


class Answer(NamedTuple):
    """seconds: produced → answered. covered: whether the answer came in time."""

    event_id: str
    scenario: str
    seconds: float
    covered: bool
    answered_ms: int


class Traffic:
    """For one thread: use as a context manager.

    Args:
        specs: of the raw topics; on an embedded broker their readers are waited for.
    """

    def __init__(self, connection: Connection, specs: list[TopicSpec], population: Population) -> None:
        self._producer = SafeProducer(connection, specs)
        self._population = population
        self.sent = 0

    def load_histories(self) -> None:
        """All histories, as fast as they are taken; returns once they are acknowledged."""
        self.send(self._population.history())

    def send(self, events: Iterable[RawEvent]) -> None:
        """These, as fast as they are taken; returns once they are acknowledged."""
        for event in events:
            self._producer.produce(event.topic, event.value, key=event.user_id.encode(), timestamp=_now_ms())
            self.sent += 1
        self._producer.flush(FLUSH_SECONDS)

    def steady(
        self,
        service: Service,
        scenarios: list[str],
        *,
        users_per_second: int,
        seconds: float,
        asked_per_second: int,
        each: Callable[[float], object] = lambda _: None,
    ) -> tuple[list[Sent], list[Answer]]:
        """One event each of `users_per_second` different users a second; some of them are asked for, scenario by turn.

        Args:
            each: called about once a second with the seconds since the start.

        Raises:
            BrokerError: an event was not delivered. ServiceError: the service refused a question.
        """
        delivered: list[Sent] = []
        count = round(users_per_second * seconds)
        stride = max(1, users_per_second // asked_per_second)
        visits, turns = self._population.visits(users_per_second), itertools.cycle(scenarios)
        with ThreadPoolExecutor(ASKERS, "ask") as pool:
            futures = []
            started = time.monotonic()
            for i in range(count):
                self._wait_until(started + i / users_per_second)
                if i % users_per_second == 0:
                    each(time.monotonic() - started)
                asked_of = next(turns) if i % stride == 0 else None

                def on_delivery(sent: Sent, begun: float, scenario: str | None = asked_of) -> None:
                    delivered.append(sent)
                    if scenario is not None:
                        futures.append(pool.submit(_ask, service, scenario, sent, begun))

                self._send(next(visits), on_delivery)
            self._producer.flush(FLUSH_SECONDS)
            answers = [future.result() for future in futures]
        return delivered, answers

    def _wait_until(self, due: float) -> None:
        """Serves delivery reports meanwhile: questions are asked in them."""
        while (left := due - time.monotonic()) > 0:
            self._producer.poll(left)
        self._producer.poll()

    def _send(self, user: str, on_delivery: Callable[[Sent, float], object]) -> None:
        begun, now_ms = time.monotonic(), _now_ms()
        event = self._population.event(user, now_ms)

        def delivered(error: Any, message: Any) -> None:
            if error is None:  # else the producer raises it
                source = f"{message.topic()}:{message.partition()}"
                on_delivery(Sent(event, source, message.offset(), now_ms), begun)

        key = user.encode()
        self._producer.produce(event.topic, event.value, key=key, timestamp=now_ms, on_delivery=delivered)
        self.sent += 1


def _ask(service: Service, scenario: str, sent: Sent, begun: float) -> Answer:
    path = f"/v1/users/{quote(sent.event.user_id)}/embeddings/{quote(scenario)}"
    covered = True
    try:
        service.get(path, {"min_offset": f"{sent.source}:{sent.offset}", "timeout_ms": WAIT_MS})
    except ServiceError as error:
        if error.code != "not_covered":
            raise
        covered = False
    return Answer(sent.event.event_id, scenario, time.monotonic() - begun, covered, _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
