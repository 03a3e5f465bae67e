"""One role in this process: its parts put together, its ready file kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deploy import brokers
from deploy.config import Settings
from deploy.ready import clear_ready, ready_path, write_ready
from store.errors import BrokerError, ConfigError
from stream.client import Connection
from stream.topics import Topics


class Context(NamedTuple):
    """What every role gets. state: its own directory. on_ready: to be called once it works."""

    settings: Settings
    connection: Connection
    topics: Topics
    state: Path
    stop: threading.Event
    on_ready: Callable[[], None]


def run_role(role: str, settings: Settings, *, instance: str, stop: threading.Event) -> None:
    """Run one role until `stop`.

    Args:
        role: a key of ROLES.
        instance: distinguishes members of one role that share a data directory.

    Raises:
        ConfigError: no such role.
        AnchorstreamError: what the role cannot go on with.
    """
    if role not in ROLES:
        raise ConfigError(f"no role {role!r}", action=f"one of: {', '.join(ROLES)}")
    data_dir = settings.store.data_dir.absolute()
    ready = ready_path(data_dir, role, instance)
    clear_ready(ready)

    def waiting() -> None:
        if stop.is_set():
            raise BrokerError("stopped before the broker answered", action="start it again when the broker runs")

    try:
        connection = brokers.connect(settings, waiting=waiting)
        topics = Topics(settings.kafka)
        ROLES[role](Context(settings, connection, topics, data_dir / role / instance, stop, lambda: write_ready(ready)))
    finally:
        clear_ready(ready)


def _ingest(context: Context) -> None:
    from stream.ingest import Ingest

    settings = context.settings
    role = Ingest(context.connection, context.topics, settings.modalities, settings.ingest, on_ready=context.on_ready)
    role.run(context.stop)


def _worker(context: Context) -> None:
    from encoder.text_encoder import identity
    from encoder.user_encoder import UserEncoder
    from encoder.worker import Worker

    settings = context.settings
    text_encoder_id, event_dim = identity()
    encoder = UserEncoder(settings.model, settings.modalities, settings.scenarios, event_dim)
    role = Worker(
        context.connection,
        context.topics,
        settings.modalities,
        encoder,
        model=settings.model,
        store=settings.store,
        state=context.state,
        text_encoder_id=text_encoder_id,
        event_dim=event_dim,
        expiry_granularity_ms=int(settings.processor.expiry_granularity_seconds * 1000),
        on_ready=context.on_ready,
    )
    role.run(context.stop)


ROLES: dict[str, Callable[[Context], None]] = {
    "ingest": _ingest,
    "worker": _worker,
}
