"""A history out of the running system's `tokens` topic: what its token buffers know, and what the log still has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from deploy.brokers import connect
from deploy.settings.config import Settings
from encoder.learning.history import History, collect
from encoder.learning.token_rows import TokenRows
from encoder.model.text_encoder import identity
from store.base.errors import ConfigError
from store.base.settings import ModalitySettings
from store.window.encoded_event import EncodedEvent
from store.window.layout import Schema
from stream.kafka.client import Connection
from stream.reading.whole_topic import Span, WholeTopic
from stream.token_log.log_runs import split_runs
from stream.token_log.ownership import Ownership
from stream.topics import Topics

CLIENT = "anchorstream-history"
_TOGETHER = 5000
_CONNECT_SECONDS = 5.0


class TopicHistory(NamedTuple):
    """without_text: events that left their window, of which the text is gone and the rest remembered."""

    history: History
    without_text: int


def load_topic_history(settings: Settings, show: Callable[[float, str], object]) -> TopicHistory:
    """As `read_topic_history`, of the running system. Raises BrokerError: no broker runs."""
    connection, topic = connect(settings, timeout_s=_CONNECT_SECONDS), Topics(settings.kafka).tokens
    return read_topic_history(connection, topic, settings.modalities, *identity(), show)


def read_topic_history(
    connection: Connection,
    topic: str,
    modalities: Mapping[str, ModalitySettings],
    encoder_id: str,
    dim: int,
    show: Callable[[float, str], object] = lambda done, text: None,
) -> TopicHistory:
    """All events that `tokens` tells of, to its end as of now; records of former owners are passed over.

    One partition's rows are held at a time beside the history.

    Args:
        encoder_id, dim: of the text encoder and its vectors.

    Raises:
        BrokerError: the broker stopped answering. NotFoundError: there is no such topic.
        ConfigError: it has lost its beginning, as an embedded broker's does. StateError: it holds other rows than are
            configured.
    """
    configured = Schema.of(encoder_id, dim, modalities)
    without_text = 0
    with WholeTopic(connection, topic, CLIENT) as whole:
        spans = whole.spans()
        if lost := [span.partition for span in spans if span.begin]:
            raise ConfigError(
                f"{topic} no longer has its beginning (partitions {', '.join(map(str, lost))}): an embedded broker "
                "keeps the newest 5 MiB of each",
                action="give the events as files: --history FILE",
            )
        total, done = sum(span.end - span.begin for span in spans), 0

        def read(at: int) -> None:
            show((done + at) / max(total, 1), f"{done + at:,} of {total:,} records of {topic}")

        def batches() -> Iterator[list[EncodedEvent]]:
            nonlocal without_text, done
            for span in spans:
                rows = TokenRows(modalities, dim)
                for marker in _take(whole, span, rows, read):
                    if (schema := Schema.unpack(marker)) is not None:
                        schema.check(configured, topic)
                yield from rows.events()
                without_text += rows.without_text
                done += span.end - span.begin

        history = collect(batches(), modalities, dim)
    return TopicHistory(history, without_text)


def _take(
    whole: WholeTopic, span: Span, rows: TokenRows, on_progress: Callable[[int], object]
) -> Iterator[bytes | None]:
    """Read a partition into `rows`; yields the markers that it came by."""
    ownership, together, position = Ownership(), list[Any](), span.begin

    def cut() -> Iterator[bytes | None]:
        nonlocal position
        for run in split_runs(together, ownership, position):
            rows.take(run.rows)
            position = run.next_offset
            yield run.marker
        together.clear()
        on_progress(position - span.begin)

    for message in whole.messages([span]):
        together.append(message)
        if len(together) >= _TOGETHER:
            yield from cut()
    yield from cut()
