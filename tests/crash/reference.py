"""What a stream must become: judged, windowed and embedded in memory, by code that knows no Kafka and no disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.settings.config import Settings
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from store.base.settings import ModalitySettings
from store.buffer.rows import KIND_EVENT, KIND_SUMMARY, Summary, parse_key, unpack_event, unpack_field, unpack_summary
from store.buffer.summary import number_width
from store.buffer.window import ModalityWindow, UserWindow
from stream.clock import EventClock
from stream.events.event import Event, Pack
from stream.events.validate import Validator
from stream.ingest.judge import Judge
from stream.kafka.partitioner import partition_of
from stream.processor.encode_events import encode_events
from stream.rejection import Rejection
from tests.models.buffer_model import BufferModel
from tests.support.behaviour import Message
from tests.support.raw_message import RawMessage


class Expected(NamedTuple):
    """One user: what the buffer holds, and its embeddings (scenarios, 128) in the order of `scenarios`."""

    window: UserWindow
    vectors: NDArray[np.float32]


def windows_of(rows: Mapping[bytes, bytes], modalities: Mapping[str, ModalitySettings]) -> dict[str, UserWindow]:
    """Windows of a set of rows, ordered as design.md says: by (time, name)."""
    items: dict[tuple[str, str], list[tuple[int, str, list[float], NDArray[np.float16]]]] = defaultdict(list)
    summaries: dict[tuple[str, str], Summary] = {}
    for raw, value in rows.items():
        key = parse_key(raw)
        place = (key.user_id, key.modality)
        if key.kind == KIND_SUMMARY:
            summaries[place] = unpack_summary(value)
            continue
        width = number_width(modalities[key.modality])
        if key.kind == KIND_EVENT:
            event = unpack_event(value)
            ts, numbers, vector = key.ts, event.numbers, event.vector
        else:
            field = unpack_field(value)
            ts, numbers, vector = field.ts, field.numbers, field.vector
            if not vector.size:
                continue
        padded = [*numbers.tolist(), *[float("nan")] * width][:width]
        items[place].append((ts, key.name, padded, vector))
    out: dict[str, dict[str, ModalityWindow]] = defaultdict(dict)
    for place, summary in summaries.items():
        own = sorted(items[place], key=lambda item: (item[0], item[1]))
        width = number_width(modalities[place[1]])
        dim = len(summary.vector_sum)
        out[place[0]][place[1]] = ModalityWindow(
            summary,
            np.array([item[0] for item in own], np.int64),
            [item[1] for item in own],
            np.array([item[2] for item in own], np.float32).reshape(len(own), width),
            np.stack([item[3] for item in own]) if own else np.zeros((0, dim), np.float16),
        )
    return {user: UserWindow(user, dict(sorted(parts.items()))) for user, parts in out.items()}


def expected(
    settings: Settings, sent: Sequence[tuple[Message, int, int]], texts: TextEncoder, users: UserEncoder
) -> dict[str, Expected]:
    """What must be served after these messages.

    Args:
        sent: (message, raw partition, raw offset), those that no ingest may accept included.
    """
    events: list[list[Event]] = [[] for _ in range(settings.kafka.partitions)]
    wall_ms = time.time_ns() // 1_000_000
    clock = EventClock.of(settings.ingest, settings.modalities)
    judge = Judge(Validator(settings.modalities, settings.ingest, clock, mapping=settings.mapping), clock)
    # in the order of the raw partitions: what is too old depends on that alone (docs/adr/0004)
    messages = [
        RawMessage(message.topic, partition, offset, message.value)
        for message, partition, offset in sorted(sent, key=lambda item: (item[0].topic, item[1], item[2]))
        if message.fate in ("accepted", "duplicate")
    ]
    sources = {(message.topic(), message.partition()) for message in messages}
    verdicts = chain(judge.judge(messages, wall_ms), *(judge.conclude(source, wall_ms) for source in sources))
    for message, event in verdicts:
        if isinstance(event, Rejection):
            assert event.code == "ts_too_old", (message, event)
            continue
        events[partition_of(event.user_id, len(events))].append(event)
    scenarios = sorted(settings.scenarios)
    out: dict[str, Expected] = {}
    for of_partition in events:
        granularity = int(settings.processor.expiry_granularity_seconds * 1000)
        model = BufferModel(settings.modalities, texts.dim, granularity)
        model.batch(encode_events([Pack.of(0, of_partition)], texts))
        for user, window in windows_of(model.rows(), settings.modalities).items():
            out[user] = Expected(window, users.encode_from_scratch([window], scenarios)[0])
    return out
