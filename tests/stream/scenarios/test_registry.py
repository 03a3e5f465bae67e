"""The registry is the last record of every name; the configuration wins; garbage is refused and read past."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from store.base.errors import BrokerError
from store.base.settings import ScenarioSettings
from store.records.scenario import Registered
from stream.kafka.client import Connection
from stream.reading import control_topic
from stream.scenarios.registry import ScenarioRegistry
from stream.settings import KafkaSettings
from stream.topics import Topics

CONFIGURED = {"churn": ScenarioSettings(query="Will it go?")}
names = st.sampled_from(["churn", "loan", "travel"])
queries = st.sampled_from(["Who?", "Why?"])
GARBAGE: list[tuple[bytes | None, bytes | None]] = [
    (b"Loan!", None),
    (None, b"x"),
    (b"\xff", b"x"),
    (b"loan", b"x"),
    (b"loan", b"\x81\xa1v\x02"),
]
actions = st.one_of(
    st.tuples(st.just("register"), names, queries),
    st.tuples(st.just("retire"), names, st.just("")),
    st.tuples(st.just("garbage"), st.sampled_from(range(len(GARBAGE))), st.just("")),
    st.tuples(st.just("look"), st.just(""), st.just("")),
)


class Registrar:
    """Writes the topic, and knows what must be seen."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.topics = Topics(KafkaSettings(topic_prefix=f"t{uuid.uuid4().hex[:8]}", partitions=1))
        ensure(connection, [spec for spec in self.topics.specs({}, []) if spec.name == self.topics.scenarios])
        self._producer = connection.producer()
        self.written = 0
        self.expected = {name: Registered(found) for name, found in CONFIGURED.items()}
        self.registrations: dict[str, int] = {}

    def register(self, name: str, query: str) -> None:
        live = self.expected.get(name)
        registration = live.registration if live and live.registration else self.registrations.get(name, 1000) + 1
        found = Registered(ScenarioSettings(query=query), registration)
        self.write(name.encode(), found.pack())
        self.registrations[name] = registration
        if name not in CONFIGURED:
            self.expected[name] = Registered(found.settings, registration, self.written)

    def retire(self, name: str) -> None:
        self.write(name.encode(), None)
        if name not in CONFIGURED:
            self.expected.pop(name, None)

    def write(self, key: bytes | None, value: bytes | None) -> None:
        self._producer.produce(self.topics.scenarios, value, key, 0)
        assert self._producer.flush(10) == 0
        self.written += 1

    @contextmanager
    def reader(self) -> Iterator[ScenarioRegistry]:
        registry = ScenarioRegistry(self.connection, self.topics, CONFIGURED)
        registry.load(threading.Event())
        yield registry
        registry.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(actions, max_size=8), after=st.lists(actions, max_size=8))
def test_equals_the_last_record_of_every_name(
    shared_embedded_broker: EmbeddedBroker, before: list[tuple[str, object, str]], after: list[tuple[str, object, str]]
) -> None:
    registrar = Registrar(shared_embedded_broker.connection)

    def act(action: tuple[str, object, str]) -> None:
        kind, what, query = action
        if kind == "register":
            registrar.register(str(what), query)
        elif kind == "retire":
            registrar.retire(str(what))
        elif kind == "garbage":
            assert isinstance(what, int)
            registrar.write(*GARBAGE[what])

    for action in before:
        act(action)
    with registrar.reader() as registry:
        assert registry.scenarios == registrar.expected
        assert registry.registrations == registrar.registrations
        assert registry.poll() is False
        seen = dict(registry.scenarios)
        for action in [*after, ("look", "", "")]:
            act(action)
            if action[0] == "look":
                changed = False
                while registry.position < registrar.written:
                    changed |= registry.poll()
                assert registry.scenarios == registrar.expected
                assert changed or registry.scenarios == seen
                seen = dict(registry.scenarios)


def test_a_registered_name_that_is_configured_is_ignored_with_a_warning(shared_embedded_broker: EmbeddedBroker) -> None:
    registrar = Registrar(shared_embedded_broker.connection)
    registrar.register("churn", "Another question?")
    with capture_logs() as lines, registrar.reader() as registry:
        assert registry.scenarios == {"churn": Registered(CONFIGURED["churn"], 0, 0)}
    assert [line["scenario"] for line in lines if line["event"] == "registration_ignored"] == ["churn"]


def test_a_later_query_has_a_higher_revision_of_the_same_registration(shared_embedded_broker: EmbeddedBroker) -> None:
    registrar = Registrar(shared_embedded_broker.connection)
    with registrar.reader() as registry:
        found = []
        for query in ("Who?", "Why?"):
            registrar.register("loan", query)
            until(registry.poll)
            found.append(registry.scenarios["loan"])
        assert [entry.settings.query for entry in found] == ["Who?", "Why?"]
        assert found[0].registration == found[1].registration
        assert found[0].revision < found[1].revision


def test_a_broker_that_tells_nothing_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_topic, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(control_topic, "PATIENCE_SECONDS", 0.1)
    connection = Connection("127.0.0.1:1")
    registry = ScenarioRegistry(connection, Topics(KafkaSettings(topic_prefix="t", partitions=1)), CONFIGURED)
    with pytest.raises(BrokerError) as caught:
        registry.load(threading.Event())
    assert "t.scenarios" in caught.value.detail
    registry.close()
