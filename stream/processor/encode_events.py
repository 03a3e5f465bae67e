"""Events as the token buffer takes them: texts become vectors, content becomes a digest. Pure but for the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol

import msgpack
import numpy as np
from numpy.typing import NDArray

from store.buffer.encoded_event import EncodedEvent, EncodedField
from stream.events.event import Event, FieldValue

# a packer of its own costs a third of packb, which makes one per call; packing these types never lets the GIL go
_pack: Callable[[object], bytes] = msgpack.Packer().pack
_NO_NUMBERS = np.empty(0, np.float32)
_NO_VECTOR = np.empty(0, np.float16)


class TextEncoder(Protocol):
    """What turns texts into vectors; encoder/model/text_encoder.py, passed in."""

    id: str
    dim: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors, float16 (len(texts), dim); equal texts give equal bytes, whatever they are batched with."""
        ...


def encode_events(events: Sequence[Event], encoder: TextEncoder) -> list[EncodedEvent]:
    """Encode a batch, in order; each distinct text once."""
    row_of: dict[str, int] = {}
    numbers: list[float | None] = []
    for event in events:
        if event.fields is None:
            row_of.setdefault(event.text, len(row_of))
            numbers += event.numbers
        else:
            for name, value in event.fields.items():
                if value is not None:
                    row_of.setdefault(field_text(name, value), len(row_of))
    rows = list(encoder.encode(list(row_of))) if row_of else []
    vectors = {text: rows[row] for text, row in row_of.items()}
    # one array for the batch, a view per event: making an array costs more than the event. None becomes NaN
    all_numbers = np.array(numbers, np.float32)
    encoded = []
    start = 0
    for user_id, modality, ts, event_id, text, own, fields, topic, partition, offset, _, ingested_at in events:
        if fields is not None:
            parts = tuple([_encode_field(name, value, vectors) for name, value in fields.items()])
            content, values, vector = digest((ts, fields)), _NO_NUMBERS, _NO_VECTOR
        else:
            parts, content, vector = None, digest((ts, text, own)), vectors[text]
            end = start + len(own)
            values = all_numbers[start:end] if own else _NO_NUMBERS
            start = end
        source = f"{topic}:{partition}"
        encoded.append(
            EncodedEvent(user_id, modality, ts, event_id, content, values, vector, parts, source, offset, ingested_at)
        )
    return encoded


def digest(content: object) -> int:
    """64 bits of an event's content; two events with one id and different digests conflict."""
    return int.from_bytes(blake2b(_pack(content), digest_size=8).digest(), "big")


def field_text(name: str, value: FieldValue) -> str:
    """Text of a tabular field; a number stays a number beside the text of its name."""
    return f"{name}: {value}" if isinstance(value, str) else name


def _encode_field(name: str, value: FieldValue, vectors: dict[str, NDArray[np.float16]]) -> EncodedField:
    if value is None:
        return EncodedField(name, digest(None), _NO_NUMBERS, _NO_VECTOR)
    numbers = _NO_NUMBERS if isinstance(value, str) else np.array((value,), np.float32)
    return EncodedField(name, digest(value), numbers, vectors[field_text(name, value)])
