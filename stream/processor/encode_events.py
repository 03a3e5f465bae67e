"""Events as the token buffer takes them: texts become vectors, content becomes a digest. Pure but for the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, chain, repeat
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.rows import Vector32
from stream.events.event import FieldValue, Numbers, Pack

_pack = msgspec.msgpack.Encoder().encode
_new_state = blake2b(digest_size=8).copy  # half the time of a new one
_NO_NUMBERS = np.empty(0, np.float32)
_NO_VECTOR = np.empty(0, np.float16)


class TextEncoder(Protocol):
    """What turns texts into vectors; encoder/model/text_encoder.py, passed in."""

    id: str
    dim: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors, float16 (len(texts), dim); equal texts give equal bytes, whatever they are batched with."""
        ...


def encode_events(
    packs: Sequence[Pack], encoder: TextEncoder, since: Sequence[Sequence[int]] | None = None
) -> list[EncodedEvent]:
    """Encode a batch, in order; each distinct text once, and its events share one vector.

    since: per pack, since when each of its sources is counted. None = they are not.
    """
    row_of: dict[str, int] = {}
    for pack in packs:
        if pack.fields is None:
            row_of.update(dict.fromkeys(pack.texts, 0))
            continue
        for text, fields in zip(pack.texts, pack.fields, strict=True):
            if fields is None:
                row_of[text] = 0
            else:
                row_of.update({field_text(name, value): 0 for name, value in fields.items() if value is not None})
    vectors = dict(zip(row_of, encoder.encode(list(row_of)), strict=True)) if row_of else {}
    numbers = iter(_numbers([own for pack in packs for own in pack.numbers]))
    encoded = []
    for pack, counted in zip(packs, since or repeat(None), strict=False):
        modalities, sources = pack.modalities, [f"{topic}:{partition}" for topic, partition in pack.sources]
        since_of = counted or [0] * len(sources)
        columns = zip(
            pack.user_ids, pack.modality_of, pack.times, pack.event_ids, pack.texts, pack.numbers, numbers,
            pack.fields or repeat(None), pack.source_of, pack.offsets, pack.ingested_at,
            strict=False,
        )  # fmt: skip
        for user_id, modality, ts, event_id, text, own, values, fields, source, offset, ingested_at in columns:
            if fields is None:
                parts, content, vector = None, digest((ts, text, own)), vectors[text]
            else:
                parts = tuple([_encode_field(name, value, vectors) for name, value in fields.items()])
                content, values, vector = digest((ts, fields)), _NO_NUMBERS, _NO_VECTOR
            encoded.append(
                EncodedEvent(
                    user_id, modalities[modality], ts, event_id, content, values, vector, parts, sources[source],
                    offset, ingested_at, since_of[source],
                )
            )  # fmt: skip
    return encoded


def digest(content: object) -> int:
    """64 bits of an event's content, as msgpack; two events with one id and different digests conflict."""
    state = _new_state()
    state.update(_pack(content))
    return int.from_bytes(state.digest(), "big")


def _numbers(rows: Sequence[Numbers]) -> Sequence[Vector32]:
    """Each row as float32, None as NaN: views of one array, since making an array costs more than the event."""
    flat = np.array(list(chain.from_iterable(rows)), np.float32)
    widths = set(map(len, rows))
    if len(widths) == 1:
        return list(flat.reshape(len(rows), widths.pop()))
    ends = list(accumulate(map(len, rows)))
    return [flat[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]


def field_text(name: str, value: FieldValue) -> str:
    """Text of a tabular field; a number stays a number beside the text of its name."""
    return f"{name}: {value}" if isinstance(value, str) else name


def _encode_field(name: str, value: FieldValue, vectors: dict[str, NDArray[np.float16]]) -> EncodedField:
    if value is None:
        return EncodedField(name, digest(None), _NO_NUMBERS, _NO_VECTOR)
    numbers = _NO_NUMBERS if isinstance(value, str) else np.array((value,), np.float32)
    return EncodedField(name, digest(value), numbers, vectors[field_text(name, value)])
