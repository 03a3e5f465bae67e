"""Check of the state: whose it is, and whether it and the `tokens` log are of this text encoder and these modalities.

Opens buffers for reading only, also those of running roles; reads one record of each partition of the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.brokers.state_prefix import check_prefix
from deploy.checks.broker import BROKER_SECONDS, opened
from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings
from store.base.errors import BrokerError, StateError, WeightsError
from store.base.files import read_json

if TYPE_CHECKING:
    from store.window.layout import Schema
    from stream.kafka.client import Connection

LOG_SECONDS = 5.0
"""Longest wait for the log's markers; what did not come is not compared."""


def check_state(settings: Settings) -> Finding:
    """It was made from this broker, of these topics, with this text encoder and these modalities."""
    check_prefix(settings.store.data_dir.absolute(), settings.kafka.topic_prefix)
    try:
        connection = opened(settings)
    except BrokerError:
        connection = None
        found = _whose(settings, None, silent=True)
    else:
        found = _whose(settings, connection, silent=False)
    if found.level is not Level.OK:
        return found
    faults = list(_misfits(settings, connection))
    if faults:
        return Finding("state", Level.FAIL, "\n".join(str(fault.detail) for fault in faults), faults[0].action)
    return found


def _whose(settings: Settings, connection: Connection | None, *, silent: bool) -> Finding:
    from deploy.brokers.state import IDENTITY_FILE, STATE_FOLDERS

    data_dir = settings.store.data_dir.absolute()
    saved = read_json(data_dir / IDENTITY_FILE)
    if saved is None:
        # roles that are run one by one make no note of the broker here; the state of each has its own
        there = sorted(str(p.relative_to(data_dir)) for name in STATE_FOLDERS for p in (data_dir / name).glob("*"))
        return Finding("state", Level.OK, f"{', '.join(there)}: each knows its broker" if there else "none yet")
    made_from = str(saved["identity"])
    if silent:
        return Finding("state", Level.OK, f"made from {made_from} (not compared: no broker)")
    if connection is None or connection.identity == made_from:
        return Finding("state", Level.OK, f"made from {made_from}")
    if connection.embedded and made_from.startswith("embedded:"):
        return Finding("state", Level.WARN, "made from an earlier embedded broker; `up` will set it aside")
    return Finding(
        "state",
        Level.FAIL,
        f"made from {made_from}, the broker is {connection.identity}",
        "use the broker it was made from, or another store.data_dir",
    )


def _misfits(settings: Settings, connection: Connection | None) -> Iterator[StateError]:
    """What roles would refuse at their start: of each folder, and of the log, once."""
    from encoder.model.text_encoder import identity
    from store.window.layout import Schema

    try:
        encoder_id, dim = identity()
    except WeightsError:
        return  # another finding
    configured = Schema.of(encoder_id, dim, settings.modalities)
    data_dir = settings.store.data_dir.absolute()
    for role in ("processor", "worker"):
        for instance in sorted((data_dir / role).glob("*")):
            if (fault := _misfit(instance, settings, configured)) is not None:
                yield fault
    if connection is not None and (fault := _misfit_of_log(settings, connection, configured)) is not None:
        yield fault


def _misfit(instance: Path, settings: Settings, configured: Schema) -> StateError | None:
    from store.buffer.view import BufferView

    for path in sorted(instance.glob("*")):
        if not path.name.isdecimal() or not (path / "CURRENT").exists():
            continue
        try:
            with BufferView(path, settings.modalities) as view:
                if view.encoder_id:
                    made = configured._replace(encoder_id=view.encoder_id, dim=view.dim)
                    made.check(configured, f"the token buffer at {path}")
        except StateError as exc:
            if exc.code == "state_mismatch":
                return exc
    return None


def _misfit_of_log(settings: Settings, connection: Connection, configured: Schema) -> StateError | None:
    """The newest account of each partition of `tokens` stands in a marker, which has the schema."""
    from confluent_kafka import KafkaException, TopicPartition

    from store.window.layout import Schema
    from stream.topics import Topics

    topics = Topics(settings.kafka)
    consumer = connection.consumer(topics.group_account)
    try:
        asked = [TopicPartition(topics.tokens, n) for n in range(topics.partitions)]
        at = [tp for tp in consumer.committed(asked, timeout=BROKER_SECONDS) if tp.error is None and tp.offset >= 0]
        if not at:
            return None
        consumer.assign(at)
        left = {tp.partition: tp.offset for tp in at}
        deadline = time.monotonic() + LOG_SECONDS
        while left and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.error() is not None or message.partition() not in left:
                continue
            offset = left.pop(message.partition())
            consumer.pause([TopicPartition(topics.tokens, message.partition())])
            if message.offset() != offset:
                continue  # compacted: a newer one is written soon
            schema = Schema.unpack(message.value())
            if schema is not None:
                schema.check(configured, f"the log {topics.tokens}")
    except StateError as exc:
        return exc
    except KafkaException:
        return None  # another finding
    finally:
        consumer.close()
    return None
