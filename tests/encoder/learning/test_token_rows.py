"""A history out of the `tokens` log: at the log's end its windows are the token buffer's, before it the past's."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.learning.history import History, collect
from encoder.learning.token_rows import TokenRows
from encoder.learning.windows import Windows
from store.base.settings import ERASURE
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from tests.encoder.learning.test_windows import same
from tests.models import events as small
from tests.models.events import Log

SETTINGS = small.modalities()


def made_up(seed: int, count: int = 300) -> list[EncodedEvent]:
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        user, modality = f"u{rng.integers(6)}", "abt"[rng.integers(3)]
        fields = {"fgh"[i]: bool(rng.random() < 0.7) for i in rng.integers(0, 3, 2)} if modality == "t" else None
        made.append(small.event(user, modality, int(rng.integers(1, 900)), f"e{n}", fields=fields, offset=n))
    return sorted(made, key=lambda event: event.ts)


def logged(buffer: TokenBuffer, events: list[EncodedEvent], batch: int = 5) -> Log:
    log = Log()
    for offset, at in enumerate(range(0, len(events), batch)):
        log.write(buffer, events[at : at + batch], offset)
    return log


def history_of(log: Log, *, compacted: bool) -> tuple[History, int]:
    rows = TokenRows(SETTINGS, small.DIM)
    records = [(key, value) for key, value, _ in log.records]
    rows.take(dict(records).items() if compacted else records)
    return collect(rows.events(), SETTINGS, small.DIM), rows.without_text


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_newest_windows_are_the_buffers(opened: small.Open, seed: int, compacted: bool) -> None:
    buffer, events = opened("buffer"), made_up(seed)
    history, without_text = history_of(logged(buffer, events), compacted=compacted)
    windows, now = Windows(history, small.GRANULARITY_MS), buffer.stream_time
    assert set(history.users) >= set(buffer.users())
    for place, user in enumerate(history.users):
        same(windows.at(place, now, includes_now=True), buffer.window(user))
    assert (without_text > 0) is compacted, "what has left a window and is remembered"


@pytest.mark.parametrize("seed", range(4))
def test_the_past_is_known_as_far_as_the_log_goes_back(opened: small.Open, seed: int) -> None:
    events = made_up(seed)
    history, _ = history_of(logged(opened("buffer"), events, 1), compacted=False)
    whole = collect([events], SETTINGS, small.DIM)
    assert history.users == whole.users
    ours, theirs = (Windows(each, small.GRANULARITY_MS) for each in (history, whole))
    for now in (200, 450, 700):
        for place in range(len(whole.users)):
            same(ours.at(place, now), theirs.at(place, now))


def test_what_was_erased_stays_erased(opened: small.Open) -> None:
    buffer = opened("buffer")
    events = [
        small.event("u", "a", 10, "old"), small.event("u", "t", 11, "field", fields={"f": True}),
        small.event("other", "a", 12, "kept"), small.event("u", ERASURE, 20, "erase"), small.event("u", "a", 30, "new"),
    ]  # fmt: skip
    history, _ = history_of(logged(buffer, events, 1), compacted=False)
    own = history.modalities["a"]
    assert sorted(own.names.tolist()) == [b"kept", b"new"]
    assert not len(history.modalities["t"].ts)


def test_modalities_that_are_not_configured_are_passed_over(opened: small.Open) -> None:
    log = logged(opened("buffer"), made_up(0))
    rows = TokenRows({"b": SETTINGS["b"]}, small.DIM)
    rows.take((key, value) for key, value, _ in log.records)
    history = collect(rows.events(), {"b": SETTINGS["b"]}, small.DIM)
    assert set(history.modalities) == {"b"}
    assert history.rows > 0
