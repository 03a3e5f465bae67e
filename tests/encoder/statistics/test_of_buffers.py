"""What is counted of a user does not tell how the events came: real token buffers, with memory."""

from __future__ import annotations

import random

import numpy as np
import pytest

from encoder.statistics import statistics
from store.base.settings import ModalityKind, ModalitySettings
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.memory import NO_MEMORY
from tests.models.events import DIM, Open, event

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
ZONE = "Europe/Paris"
MODALITIES = {
    "a": ModalitySettings(topic="a", window_days=60, max_events=12, numbers=("x", "y")),
    "b": ModalitySettings(topic="b", window_days=30, memory_days=90),
    "t": ModalitySettings(topic="t", kind=ModalityKind.TABULAR, window_days=300),
}


def of(buffer: TokenBuffer) -> np.ndarray:
    windows = [buffer.window(user) for user in ("u", "v")]
    assert any(m.summary.memory != NO_MEMORY for w in windows for m in w.modalities.values())
    return statistics.compute([w.at(w.as_of + 9 * DAY_MS) for w in windows], MODALITIES, ZONE)


def apply(buffer: TokenBuffer, batches: list[list[EncodedEvent]]) -> None:
    for i, batch in enumerate([*batches, []]):
        while True:
            changes = buffer.prepare(batch, source_offset=i)
            buffer.commit(changes, log_offset=buffer.log_offset + 1)
            batch = []
            if not changes.sweep_rows and not changes.sweep_left:
                break


@pytest.mark.parametrize("seed", range(4))
def test_one_by_one_in_any_order_with_duplicates_is_all_at_once(opened: Open, seed: int) -> None:
    rng = random.Random(seed)
    events = []
    for i in range(150):
        modality = rng.choice("aabbt")
        fields = {rng.choice("fgh"): rng.random() < 0.8} if modality == "t" else None
        ts = START_MS + rng.randrange(200) * DAY_MS + rng.randrange(5) * 7_200_000
        events.append(event(rng.choice("uv"), modality, ts, f"e{i}", fields=fields, offset=i))
    newest = max(events, key=lambda each: each.ts)
    at_once = opened("at-once", modalities=MODALITIES)
    apply(at_once, [events])
    wanted = of(at_once)
    assert np.isfinite(wanted).all()

    shuffled = [*events, *rng.sample(events, 30)]
    rng.shuffle(shuffled)
    batches, rest = [], shuffled
    while rest:
        size = rng.randint(1, 20)
        batches.append(rest[:size])
        rest = rest[size:]
    piecewise = opened("piecewise", modalities=MODALITIES)
    apply(piecewise, batches)
    assert np.array_equal(of(piecewise), wanted), f"newest {newest.ts}"
    assert of(piecewise).shape == (2, len(statistics.names(MODALITIES)))
    assert at_once.window("u").modalities["a"].vectors.shape[1] == DIM
