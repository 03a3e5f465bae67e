"""Whether the last raw events are what the configuration takes them for. Reads, commits nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from deploy.checks.broker import opened
from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings

if TYPE_CHECKING:
    from stream.kafka.client import Connection

LAST = 50
"""Messages of each raw partition."""
FEW = 5
"""Of fewer events of a modality it says nothing."""
READ_SECONDS = 10.0


def check_events(settings: Settings) -> Finding:
    """Judge the last messages of the raw topics: what is refused, and which configured fields none carries."""
    connection = opened(settings)
    if connection is None:
        return Finding("events", Level.OK, "none yet: no broker runs")
    raw_topics = {m.topic for m in settings.modalities.values()}
    denied: dict[str, str] = {}
    found = judged(settings, last_messages(connection, raw_topics, denied), int(time.time() * 1000))
    if not denied:
        return found
    lines = [f"{topic} cannot be read: {why}" for topic, why in sorted(denied.items())]
    return Finding(
        "events", Level.FAIL, "; ".join([*lines, f"of the others: {found.detail}"]), "grant Read and Describe on it"
    )


def judged(settings: Settings, messages: Iterable[Any], wall_ms: int) -> Finding:
    """The finding of these messages. Pure."""
    from stream.clock import EventClock
    from stream.events.field_names import names
    from stream.events.validate import Validator
    from stream.rejection import Rejection, Skipped
    from stream.settings import Clock

    # of history nobody knows here how far its stream is
    ingest = settings.ingest.model_copy(update={"clock": Clock.STREAM})
    rules = Validator(
        settings.modalities, ingest, EventClock.of(ingest, settings.modalities, lenient=True), mapping=settings.mapping
    )
    refused: Counter[str] = Counter()
    first: dict[str, str] = {}
    read = skipped = 0
    for message in messages:
        read += 1
        found = rules.validate(message.value(), message.topic(), message.partition(), message.offset(), 0, wall_ms)
        if isinstance(found, Rejection):
            refused[found.code] += 1
            first.setdefault(found.code, found.detail)
        elif isinstance(found, Skipped):
            skipped += 1
    if not read:
        return Finding("events", Level.OK, "none yet")
    missing = []
    for name, content in rules.contents().items():
        never = [f for f in content.fields if content.judged >= FEW and content.missing[f] == content.judged]
        if never:
            seen = names(content.incomplete)
            missing.append(f"{name}: none of {content.judged} has {', '.join(never)}; they have {seen}")
    detail = f"of the last {read}, {read - refused.total() - skipped} are accepted"
    detail += f", {skipped} skipped" if skipped else ""
    if missing or 2 * refused.total() > read - skipped:
        said = [f"{n} {code} ({first[code]})" for code, n in refused.most_common(3)]
        return Finding("events", Level.WARN, "; ".join([detail, *said, *missing]), "see docs/producers.md")
    return Finding("events", Level.OK, detail)


def last_messages(
    connection: Connection, topics: set[str], denied: dict[str, str] | None = None, *, each: int = LAST
) -> Iterator[Any]:
    """The newest messages, `each` of each partition of these topics, as far as they come in READ_SECONDS.

    denied: filled, {topic: why}, with those that this user may not see or read.
    """
    from confluent_kafka import KafkaError, TopicPartition

    there = connection.metadata(timeout_s=READ_SECONDS).topics
    denied = {} if denied is None else denied
    denied |= _unseen(connection, topics)
    consumer = connection.consumer("anchorstream.doctor", **{"enable.partition.eof": True})
    try:
        left = set()
        for topic in (topics & there.keys()) - denied.keys():
            for partition in there[topic].partitions:
                low, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_SECONDS)
                if end > low:
                    left.add((topic, partition, max(low, end - each)))
        consumer.assign([TopicPartition(*place) for place in left])
        waiting = {place[:2] for place in left}
        deadline = time.monotonic() + READ_SECONDS
        while waiting and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error() is None:
                yield message
            else:  # the end, or a partition that cannot be read
                if message.error().code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    denied[message.topic()] = message.error().str()
                waiting.discard((message.topic(), message.partition()))
    finally:
        consumer.close()


def _unseen(connection: Connection, topics: set[str]) -> dict[str, str]:
    """{topic: why} of those that this user may not describe: a list of all topics leaves them out."""
    from confluent_kafka import KafkaError, KafkaException, TopicCollection

    if connection.embedded or not topics:
        return {}
    admin = connection.admin()
    answers = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=READ_SECONDS)
    found = {}
    for topic, answer in answers.items():
        try:
            answer.result(READ_SECONDS + 1)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                found[topic] = exc.args[0].str()
    return found
