"""Events as the token buffer takes them: texts become vectors, content becomes a digest. Pure but for the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import msgpack
import numpy as np
from numpy.typing import NDArray

from store.encoded_event import EncodedEvent, EncodedField
from stream.event import Event, FieldValue

_NO_NUMBERS = np.empty(0, np.float32)
_NO_VECTOR = np.empty(0, np.float16)


class TextEncoder(Protocol):
    """What turns texts into vectors; encoder/text_encoder.py, passed in."""

    id: str
    dim: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors, float16 (len(texts), dim); equal texts give equal bytes, whatever they are batched with."""
        ...


def encode_events(events: Sequence[Event], encoder: TextEncoder) -> list[EncodedEvent]:
    """Encode a batch, in order; each distinct text once."""
    row_of: dict[str, int] = {}
    for event in events:
        if event.fields is None:
            row_of.setdefault(event.text, len(row_of))
        else:
            for name, value in event.fields.items():
                if value is not None:
                    row_of.setdefault(field_text(name, value), len(row_of))
    rows = list(encoder.encode(list(row_of))) if row_of else []
    vectors = {text: rows[row] for text, row in row_of.items()}
    return [_encode(event, vectors) for event in events]


def field_text(name: str, value: FieldValue) -> str:
    """Text of a tabular field; a number stays a number beside the text of its name."""
    return f"{name}: {value}" if isinstance(value, str) else name


def digest(*content: object) -> int:
    """64 bits of an event's content; two events with one id and different digests conflict."""
    return int.from_bytes(blake2b(msgpack.packb(content), digest_size=8).digest(), "big")


def _encode(event: Event, vectors: dict[str, NDArray[np.float16]]) -> EncodedEvent:
    user_id, modality, ts, event_id, text, numbers, fields, topic, partition, offset, _, ingested_at = event
    source = f"{topic}:{partition}"
    if fields is None:
        # np.array turns None into NaN
        values = np.array(numbers, np.float32) if numbers else _NO_NUMBERS
        content = digest(ts, text, numbers)
        return EncodedEvent(
            user_id, modality, ts, event_id, content, values, vectors[text], None, source, offset, ingested_at
        )
    encoded = tuple([_encode_field(name, value, vectors) for name, value in fields.items()])
    content = digest(ts, fields)
    return EncodedEvent(
        user_id, modality, ts, event_id, content, _NO_NUMBERS, _NO_VECTOR, encoded, source, offset, ingested_at
    )


def _encode_field(name: str, value: FieldValue, vectors: dict[str, NDArray[np.float16]]) -> EncodedField:
    if value is None:
        return EncodedField(name, digest(None), _NO_NUMBERS, _NO_VECTOR)
    numbers = _NO_NUMBERS if isinstance(value, str) else np.array((value,), np.float32)
    return EncodedField(name, digest(value), numbers, vectors[field_text(name, value)])
