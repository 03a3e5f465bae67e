"""Checks of the broker: its parts, its answer, its topics."""

from __future__ import annotations

import shutil
from itertools import chain

from deploy.checks.finding import Finding, Level
from deploy.lock import holder
from deploy.settings.config import Settings
from store.base.files import read_json
from stream.kafka.client import Connection

BROKER_SECONDS = 5.0


def check_broker_parts(settings: Settings) -> Finding:
    """What the configured broker needs on this machine."""
    kind = settings.kafka.bootstrap_servers
    if kind == "embedded":
        from deploy.brokers.embedded import library

        library()
        return Finding("broker parts", Level.OK, "librdkafka's mock cluster is there")
    if kind == "local":
        from deploy.brokers.kafka_jars import KAFKA_VERSION, cache_dir, java

        path = java()
        jars = cache_dir() / f"kafka-{KAFKA_VERSION}"
        if jars.is_dir():
            return Finding("broker parts", Level.OK, f"{path}; Kafka {KAFKA_VERSION} in {jars}")
        if shutil.which("mvn") is None:
            return Finding("broker parts", Level.FAIL, "Maven is missing", "install Maven: it fetches Kafka once")
        return Finding("broker parts", Level.OK, f"{path}; Kafka {KAFKA_VERSION} will be fetched by Maven once (43 MB)")
    return Finding("broker parts", Level.OK, "none needed: the broker is yours")


def check_broker(settings: Settings) -> Finding:
    """It answers, within BROKER_SECONDS."""
    connection = opened(settings)
    if connection is None:
        return Finding(
            "broker", Level.OK, f"{settings.kafka.bootstrap_servers}: not running; `anchorstream up` starts it"
        )
    found = connection.metadata(timeout_s=BROKER_SECONDS)
    detail = (
        f"{connection.bootstrap}: {len(found.brokers)} broker(s), {len(found.topics)} topics, {connection.identity}"
    )
    factor = settings.kafka.replication_factor
    if factor > len(found.brokers):
        return Finding(
            "broker", Level.FAIL, f"{detail}; kafka.replication_factor is {factor}", "set it to at most their number"
        )
    return Finding("broker", Level.OK, detail)


def check_topics(settings: Settings) -> Finding:
    """Those that exist are as the configuration needs them. Changes nothing."""
    from deploy.brokers import specs
    from deploy.kafka import topics

    connection = opened(settings)
    if connection is None:
        return Finding("topics", Level.OK, "created at the first `anchorstream up`")
    there = connection.metadata(timeout_s=BROKER_SECONDS).topics
    wanted = specs(settings)
    existing = [spec for spec in wanted if spec.name in there]
    if faults := topics.faults(connection, existing):
        return Finding("topics", Level.FAIL, "\n".join(chain.from_iterable(faults.values())), topics.MEND)
    missing = [spec for spec in wanted if spec.name not in there]
    detail = f"{len(existing)} of {len(wanted)} are there and as they should be"
    if (why := topics.refusal(connection, missing, replication_factor=settings.kafka.replication_factor)) is not None:
        return Finding("topics", Level.FAIL, why.detail, why.action)
    if missing:
        detail = f"{detail}; `anchorstream up` creates {', '.join(spec.name for spec in missing)}"
    begun = [spec for spec in existing if spec.name.startswith(f"{settings.kafka.topic_prefix}.")]
    if missing and begun:  # raw topics are often there before anything of ours
        action = "new in the configuration: start roles anew; deleted: what was in them is gone, replay its source"
        return Finding("topics", Level.WARN, detail, action)
    if forced := topics.forced_settings(connection, existing):
        return Finding("topics", Level.WARN, "\n".join([detail, *forced]), "nothing, if that will do")
    return Finding("topics", Level.OK, detail)


def opened(settings: Settings) -> Connection | None:
    """Connection of the configured broker; None for one of ours that does not run."""
    from deploy.brokers import READY_FILE, connect

    data_dir = settings.store.data_dir.absolute()
    # after a kill -9 of `up` its broker.json is still there: only the lock tells that somebody runs it
    if settings.kafka.managed and (holder(data_dir) is None or read_json(data_dir / READY_FILE) is None):
        return None
    return connect(settings, timeout_s=BROKER_SECONDS)
