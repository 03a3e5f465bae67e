"""Settings of topics that somebody changes while the roles run: named by lag, and mended by a command of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import cli
from deploy.brokers.local import LocalKafka
from deploy.checks.broker import check_topics
from deploy.checks.finding import Level
from deploy.kafka import topics
from deploy.kafka.mend import mend
from deploy.kafka.topic_faults import Judged, judge
from deploy.kafka.topic_settings import alter, expire
from deploy.kafka.topic_watch import LOOK_SECONDS, TopicWatch
from deploy.settings.config import load
from store.base.errors import TopicError
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.topics import Topics, TopicSpec
from tests.support.processes import wait_until

pytestmark = pytest.mark.kafka


@pytest.fixture
def connection(kafka_broker: LocalKafka) -> Connection:
    return kafka_broker.connection


@pytest.fixture
def names(connection: Connection, topic_prefix: str) -> Topics:
    """Topics of a configuration with one scenario, as they must be."""
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=2))
    topics.ensure(connection, names.specs({}, ["churn"]))
    return names


def until_told(connection: Connection, names: Topics, true: Callable[[Judged], object]) -> None:
    """A broker answers "changed" before it tells what has."""
    specs = names.specs({}, ["churn"])
    wait_until(lambda: bool(true(judge(connection, specs))), "the broker tells it")


class Clock:
    """What a test says the time is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_somebody_changes_is_found_and_mended(connection: Connection, names: Topics) -> None:
    """A retention by hand, `tokens` and `embeddings.*` without compaction: only doctor said it."""
    clock = Clock()
    watch = TopicWatch(connection, names, clock=clock)
    read = {names.events, names.tokens, names.embeddings("churn")}
    assert watch.faults(read) == ()
    alter(
        connection,
        {
            names.events: {"retention.ms": "60000"},
            names.tokens: {"cleanup.policy": "delete"},
            names.embeddings("churn"): {"cleanup.policy": "compact,delete"},
        },
    )
    until_told(connection, names, lambda now: len(now.wrong) == 3)
    assert watch.faults(read) == ()  # not looked again so soon
    clock.now += LOOK_SECONDS
    found = watch.faults(read)
    assert {line.split(" has ")[0] for line in found} == read
    assert "retention.ms=60000" in "".join(found)
    done = mend(connection, names.specs({}, ["churn"]))
    assert len(done) == 3
    clock.now += LOOK_SECONDS
    assert watch.faults(read) == ()
    assert mend(connection, names.specs({}, ["churn"])) == []


def test_a_scenario_that_is_read_must_not_be_emptied(connection: Connection, names: Topics) -> None:
    """What a retired one's topic is set to, by hand: nobody may take it for that."""
    watch = TopicWatch(connection, names)
    expire(connection, [names.embeddings("churn")])
    until_told(connection, names, lambda now: now.retired)
    assert watch.faults(set()) == ()
    (line,) = watch.faults({names.embeddings("churn")})
    assert line.startswith(f"{names.embeddings('churn')} is set to be emptied")


def test_a_topic_that_no_lag_is_read_of_and_is_gone(connection: Connection, names: Topics) -> None:
    admin = connection.admin()
    admin.delete_topics([names.dead_letters])[names.dead_letters].result(10)
    until_told(connection, names, lambda now: now.missing)
    (line,) = TopicWatch(connection, names).faults({names.events})
    assert line == f"{names.dead_letters} is not there: `anchorstream topics mend`"
    assert mend(connection, names.specs({}, ["churn"])) == [f"{names.dead_letters}: created"]


def test_mending_makes_anew_what_was_never_written_to_and_nothing_else(
    connection: Connection, topic_prefix: str
) -> None:
    events, tokens, one = (TopicSpec(f"{topic_prefix}.{name}", n) for name, n in (("e", 4), ("t", 4), ("one", 1)))
    topics.ensure(connection, [TopicSpec(events.name, 6), tokens])
    topics.ensure(connection, [TopicSpec(one.name, 3)])
    producer = connection.producer()
    producer.produce(one.name, b"x", partition=2)
    assert producer.flush(30) == 0
    with pytest.raises(TopicError) as caught:
        mend(connection, [events, tokens, one])
    assert caught.value.detail.startswith(f"{one.name} has 3 partitions and must have one: ")
    assert "\n" not in caught.value.detail
    there = connection.metadata().topics
    assert [len(there[spec.name].partitions) for spec in (events, tokens, one)] == [4, 4, 3]


def test_the_command_lists_and_mends(
    connection: Connection, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "anchorstream.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{connection.bootstrap}"\ntopic_prefix = "{topic_prefix}"\npartitions = 2\n'
        '[modalities.bill]\ntopic = "bills"\n[scenarios.churn]\nquery = "Will this user leave?"\n'
    )
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=2))

    def run(*words: str) -> tuple[int, dict[str, object]]:
        code = cli.run([*words, "--config", str(config), "--json"])
        answer: dict[str, object] = json.loads(capsys.readouterr().out)
        return code, answer

    assert run("topics", "list")[0] == 1
    assert run("topics", "mend")[0] == 0
    assert run("topics", "list")[0] == 0
    alter(connection, {names.tokens: {"cleanup.policy": "delete"}})
    until_told(connection, names, lambda now: now.wrong)
    code, listed = run("topics", "list")
    assert code == 1
    assert [t["name"] for t in listed["topics"] if t["fault"]] == [names.tokens]  # type: ignore[attr-defined]
    code, lag = run("lag")
    assert code == 1
    assert [line.split(" has ")[0] for line in lag["topic_faults"]] == [names.tokens]  # type: ignore[attr-defined]
    assert run("topics", "mend") == (0, {"done": [f"{names.tokens}: cleanup.policy = compact"]})
    expire(connection, [churn := names.embeddings("churn")])
    until_told(connection, names, lambda now: now.retired)
    code, listed = run("topics", "list")
    assert code == 1
    (fault,) = [t["fault"] for t in listed["topics"] if t["fault"]]  # type: ignore[attr-defined]
    assert fault == f"{churn} is set to be emptied within the hour: `anchorstream topics mend`"
    found = check_topics(load(config))
    assert (found.level, found.detail) == (Level.FAIL, fault)
    assert run("topics", "list")[0] == 1  # looking changed nothing
    assert run("topics", "mend") == (0, {"done": [f"{churn}: no longer set to be emptied"]})
    assert run("topics", "list")[0] == 0
