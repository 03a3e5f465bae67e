"""One role in this process: its parts put together, its ready file kept."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deploy import brokers
from deploy.brokers.state import STATE_FOLDERS
from deploy.brokers.state_prefix import claim_prefix
from deploy.kafka.topics import check_partitions
from deploy.run.clock_watch import watching_clock
from deploy.run.endpoint import application, listen, remove_target, write_target
from deploy.run.ready import clear_ready, ready_path, write_ready
from deploy.run.state_watch import watching
from deploy.settings.config import Settings
from store.base import logs, metrics, open_files, pulse
from store.base.errors import BrokerError, ConfigError, TopicError
from store.base.exposure import check_exposure, netloc
from stream.kafka.client import Connection
from stream.topics import Topics

if TYPE_CHECKING:
    from store.buffer.partition_buffers import PartitionBuffers

log = logs.get(__name__)


class Context(NamedTuple):
    """What every role gets. state: its own directory. on_ready: to be called once it works; it sets `ready`."""

    settings: Settings
    connection: Connection
    topics: Topics
    state: Path
    stop: threading.Event
    on_ready: Callable[[], None]
    ready: threading.Event


def run_role(role: str, settings: Settings, *, instance: str, stop: threading.Event) -> None:
    """Run one role until `stop`.

    Args:
        role: a key of ROLES.
        instance: distinguishes members of one role that share a data directory.

    Raises:
        ConfigError: no such role, or it would let others in without a token.
        StateError: the state here is of another prefix, or was removed while the role ran.
        TopicError: somebody has changed the partitions of our topics.
        BrokerError: the wall clock was set back while the role ran.
        AnchorstreamError: what the role cannot go on with.
    """
    if role not in ROLES:
        raise ConfigError(f"no role {role!r}", action=f"one of: {', '.join(ROLES)}")
    if role == "serve":
        check_exposure(settings.serve)
    open_files.raise_limit()
    os.umask(0o077)  # state, snapshots and logs tell of users: they are this user's alone
    data_dir = settings.store.data_dir.absolute()
    ready = ready_path(data_dir, role, instance)
    clear_ready(ready)
    works = threading.Event()
    metrics.READY.labels(role).set(0)
    log.info(logs.ROLE_STARTED, instance=instance)

    def on_ready() -> None:
        # torch and transformers keep 400,000 objects; a full collection over them stops the role for 0.3 s
        gc.collect()
        gc.freeze()
        write_ready(ready)
        works.set()
        metrics.READY.labels(role).set(1)
        log.info(logs.ROLE_READY, instance=instance)

    def waiting() -> None:
        if stop.is_set():
            raise BrokerError("stopped before the broker answered", action="start it again when the broker runs")

    try:
        connection = brokers.connect(settings, waiting=waiting).named(f"anchorstream-{role}-{instance}")
        topics = Topics(settings.kafka)
        check_partitions(connection, topics.specs(settings.modalities, settings.scenarios))
        state = data_dir / role / instance
        if role in STATE_FOLDERS:
            claim_prefix(state, topics.prefix)
        with watching_clock(stop), watching(data_dir, stop):
            ROLES[role](Context(settings, connection, topics, state, stop, on_ready, works))
    finally:
        clear_ready(ready)
        works.clear()
        remove_target(data_dir, role, instance)
        metrics.READY.labels(role).set(0)
        log.info(logs.ROLE_STOPPED, instance=instance)
        gc.unfreeze()  # or triton's binding finds its objects alive at the end, and writes a line of each


def _ingest(context: Context) -> None:
    from stream.ingest.ingest import Ingest

    settings = context.settings
    _export(context, "ingest")
    role = Ingest(
        context.connection,
        context.topics,
        settings.modalities,
        settings.ingest,
        mapping=settings.mapping,
        on_ready=context.on_ready,
    )
    role.run(context.stop)


def _processor(context: Context) -> None:
    from encoder.model.text_encoder import TextEncoder
    from stream.processor.processor import Processor
    from stream.settings import Clock

    settings = context.settings
    processor = settings.processor
    encoder = TextEncoder(
        cache_entries=processor.text_cache_entries, batch_texts=processor.text_batch, threads=processor.threads
    )
    _export(context, "processor")
    role = Processor(
        context.connection,
        context.topics,
        processor,
        encoder,
        _buffers(context, encoder.id, encoder.dim),
        wall_passes=settings.ingest.clock is Clock.WALL,
        on_ready=context.on_ready,
    )
    role.run(context.stop)


def _worker(context: Context) -> None:
    from encoder.forward.model_set import ModelSet
    from encoder.model.text_encoder import identity
    from encoder.worker.embed_requests import EmbedRequests
    from encoder.worker.embedding_topic_ids import EmbeddingTopicIds
    from encoder.worker.live_scenarios import LiveScenarios
    from encoder.worker.scheduler import RefreshScheduler
    from encoder.worker.worker import Worker
    from store.window.silence import SilenceTicks
    from stream.scenarios.registry import ScenarioRegistry

    settings = context.settings
    _export(context, "worker")
    text_encoder_id, event_dim = identity()
    candidates = {name: settings.with_prompts(each) for name, each in settings.candidates.items()}
    model = settings.with_prompts(settings.model)
    encoder = ModelSet(model, candidates, settings.modalities, settings.scenarios, event_dim)
    registry = ScenarioRegistry(context.connection, context.topics, settings.scenarios)

    def make_topics(names: Iterable[str]) -> None:
        try:
            _make_topics(context, names)
        except TopicError as exc:  # one that is just being retired is serve's business, and no reason to stop
            log.warning(logs.TOPIC_DIFFERS, detail=exc.detail)

    role = Worker(
        context.connection,
        context.topics,
        _buffers(context, text_encoder_id, event_dim, replica=True),
        LiveScenarios(registry, encoder, make_topics, EmbeddingTopicIds(context.connection, context.topics)),
        RefreshScheduler.of(settings.model, sum(m.max_events for m in settings.modalities.values())),
        ticks=SilenceTicks(settings.model.silence_days),
        requests=EmbedRequests(context.connection, context.topics),
        on_ready=context.on_ready,
    )
    role.run(context.stop)


def _serve(context: Context) -> None:
    from deploy.serve_file import claimed

    data_dir, prefix = context.settings.store.data_dir.absolute(), context.topics.prefix
    with claimed(data_dir, context.state.name, prefix) as say:
        _serve_alone(context, say)


def _serve_alone(context: Context, say: Callable[[str], None]) -> None:
    """say: to be told the URL once it answers."""
    from deploy.kafka import topic_settings
    from deploy.kafka.topic_watch import TopicWatch
    from store.http.app import create_app
    from store.http.service import Service
    from store.http.wire.places import ConnectionLimits
    from store.http.wire.server import Serve
    from store.index.serve_state import ServeState
    from store.index.snapshot import SnapshotStore
    from stream.account.reader import AccountReader
    from stream.lag.evidence import Evidence
    from stream.lag.reader import LagReader, plan
    from stream.raw_topics.registry import RawTopics
    from stream.scenarios.feed import ScenarioFeed
    from stream.scenarios.registrar import ScenarioRegistrar
    from stream.serve.embed_client import EmbedClient
    from stream.serve.tail import ServeTail

    settings, topics = context.settings, context.topics
    data_dir = settings.store.data_dir.absolute()
    state = ServeState(settings.scenarios, topics.partitions)
    make_topics = partial(_make_topics, context)
    feed = ScenarioFeed(
        context.connection, topics, settings.scenarios, settings.candidates, state.back_fills, make_topics
    )
    registrar = ScenarioRegistrar(
        context.connection,
        topics,
        feed.registry,
        candidates=settings.candidates,
        make_topics=make_topics,
        expire_topics=lambda names: topic_settings.expire(context.connection, map(topics.embeddings, names)),
    )
    raw = {modality.topic for modality in settings.modalities.values()}
    reader = LagReader(
        context.connection,
        plan(topics, raw, settings.scenario_names),
        topic_faults=TopicWatch(context.connection, topics).faults,
    )
    lag = Evidence(reader)
    account = AccountReader(context.connection, topics, raw)
    # `verify` finds the snapshots of the first instance without a broker
    folder = data_dir / "serve" if context.state.name == "0" else context.state
    raw_topics = None if context.connection.embedded else RawTopics(context.connection, topics, topics.group_serve)
    tail = ServeTail(
        context.connection,
        topics,
        settings.modalities,
        feed,
        state,
        SnapshotStore(folder, identity=context.connection.identity),
        raw_topics=raw_topics,
        snapshot_interval_seconds=settings.store.snapshot_interval_seconds,
        on_scenarios=lambda: reader.watch(plan(topics, raw, state.catalog)),
        on_registry=registrar.adopted,
    )
    embedder = EmbedClient(context.connection, topics)
    service = Service(
        settings.serve,
        state.catalog,
        state.pending,
        lambda: lag.read().to_dict(),
        lambda: account.read().to_dict(),
        tail.ready,
        state.back_fills,
        state.fields,
        registrar=registrar,
        embedder=embedder,
        source_of=lambda topic: topic if raw_topics is None else raw_topics.sources.get(topic, topic),
    )

    exported = _export(context, "serve")

    def on_ready(url: str) -> None:
        say(url)
        if not exported:
            write_target(data_dir, "serve", context.state.name, url.removeprefix("http://"))
        context.on_ready()

    serve = Serve(
        create_app(service),
        tail,
        host=settings.serve.host,
        port=settings.serve.port,
        limits=ConnectionLimits(settings.serve.max_connections),
        on_ready=on_ready,
        beside={"embed-replies": embedder.run},
    )
    try:
        serve.run(context.stop)
    finally:
        registrar.close()
        lag.close()
        reader.close()
        account.close()


def _monitor(context: Context) -> None:
    from deploy.kafka.topic_watch import TopicWatch
    from stream.lag.monitor import Monitor
    from stream.lag.reader import LagReader
    from stream.lag.scenarios import LagScenarios

    settings = context.settings
    raw = {modality.topic for modality in settings.modalities.values()}
    scenarios = LagScenarios(context.connection, context.topics, raw, settings.scenarios, settings.candidates)
    _export(context, "monitor")
    role = Monitor(
        LagReader(
            context.connection,
            scenarios.plan(),
            topic_faults=TopicWatch(context.connection, context.topics).faults,
        ),
        scenarios,
        interval_seconds=settings.metrics.lag_interval_seconds,
        on_ready=context.on_ready,
    )
    role.run(context.stop)


def _buffers(context: Context, encoder_id: str, dim: int, *, replica: bool = False) -> PartitionBuffers:
    from store.buffer.partition_buffers import PartitionBuffers
    from store.buffer.resources import BufferResources

    settings = context.settings
    return PartitionBuffers(
        context.state,
        context.connection.identity,
        settings.modalities,
        encoder_id,
        dim,
        expiry_granularity_ms=int(settings.processor.expiry_granularity_seconds * 1000),
        resources=BufferResources.of(settings.store),
        replica=replica,
    )


def _make_topics(context: Context, scenarios: Iterable[str]) -> None:
    """`embeddings.*` of scenarios that were registered; one that is there stays. Raises TopicError."""
    from deploy.kafka import topics

    factor = context.settings.kafka.replication_factor
    topics.ensure(context.connection, map(context.topics.embeddings_spec, scenarios), replication_factor=factor)


def _export(context: Context, role: str) -> bool:
    """Endpoint for Prometheus and probes, on threads of its own. Whether there is to be one."""
    settings = context.settings.metrics
    if settings.port is None:
        return False
    app = application(metrics.registry(role), context.ready.is_set, pulse.silent_seconds)
    port = listen(app, settings.host, settings.port)
    data_dir = context.settings.store.data_dir.absolute()
    write_target(data_dir, role, context.state.name, netloc(settings.host, port))
    return True


ROLES: dict[str, Callable[[Context], None]] = {
    "ingest": _ingest,
    "processor": _processor,
    "worker": _worker,
    "serve": _serve,
    "monitor": _monitor,
}
