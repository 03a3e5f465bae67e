"""What a user's embedding covers must not vanish while there is an embedding: serve would wait for it for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import EncodedEvent, TokenBuffer

DAY_MS = 86_400_000
DIM = 4
MODALITIES = {name: ModalitySettings(topic=name, window_days=90, memory_days=0) for name in ("app", "bill")}


def event(modality: str, day: int, offset: int) -> EncodedEvent:
    vector = np.zeros(DIM, np.float16)
    vector[0] = 1
    none = np.empty(0, np.float32)
    return EncodedEvent(
        "u", modality, day * DAY_MS, f"{modality}-{offset}", offset, none, vector, None, f"{modality}:0", offset, 1
    )


def apply(buffer: TokenBuffer, *events: EncodedEvent) -> None:
    buffer.commit(buffer.prepare(events, source_offset=buffer.source_offset + 1), log_offset=0)


def test_an_event_late_by_two_windows_stays_covered_until_its_user_goes(tmp_path: Path) -> None:
    """A replay reads one topic to its end before another: the other's beginning is two windows late when it comes."""
    buffer = TokenBuffer.open(
        tmp_path / "b", modalities=MODALITIES, encoder_id="e", dim=DIM, identity="i", expiry_granularity_ms=3_600_000,
        resources=BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20),
    )  # fmt: skip
    apply(buffer, event("bill", 20_300, 7))
    apply(buffer, event("app", 20_100, 3))
    apply(buffer)
    assert buffer.window("u").covers == {"app:0": 3, "bill:0": 7}
    # somebody else moves the stream on: first the rows go, then, two windows later, all of the user at once
    for day, covers in ((20_400, {"app:0": 3, "bill:0": 7}), (20_481, {})):
        apply(buffer, replace(event("bill", day, day), user_id="other"))
        apply(buffer)
        assert buffer.window("u").covers == covers
    assert list(buffer.users()) == ["other"]
    buffer.close()
