"""The token buffer against the model, under every operation, crash and restore."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from store.base.settings import ERASURE
from store.window.encoded_event import EncodedEvent
from store.window.layout import parse_expiry_key
from store.window.memory import BLOCK_MS
from tests.models.buffer_model import BufferModel
from tests.models.checks import check_sums
from tests.models.events import (
    DIM,
    GRANULARITY_MS,
    MEMORY_MS,
    WINDOW_MS,
    Log,
    event,
    modalities,
    open_buffer,
    resources,
)

USERS = ("u", "u2", "ü")
SHARED = resources()

identities = st.tuples(st.sampled_from(USERS), st.sampled_from("abt"), st.integers(0, 30))
field_values = st.dictionaries(st.sampled_from("fghij"), st.booleans(), max_size=3)


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.dir = Path(tempfile.mkdtemp(prefix="buffer-"))
        self.n = 0
        self.offset = -1
        self.raw = -1
        self.now = BLOCK_MS - 500  # memories of one block, soon of two
        self.log = Log()
        self.model = BufferModel(modalities(), DIM, GRANULARITY_MS)
        self.buffer = open_buffer(self.dir / "b0", SHARED)
        self.replica = open_buffer(self.dir / "replica", SHARED, replica=True)
        self.known: dict[tuple[str, str, str], EncodedEvent] = {}
        self.last: list[EncodedEvent] = []

    def teardown(self) -> None:
        self.buffer.close()
        self.replica.close()
        shutil.rmtree(self.dir)

    def make(self, identity: tuple[str, str, int], age: int, fields: dict[str, bool]) -> EncodedEvent:
        """A new event, or again one that was made before: an identity has one time and one content."""
        user, modality, number = identity
        key = (user, modality, f"e{number}")
        if key not in self.known:
            self.raw += 1
            made = event(
                user,
                modality,
                max(0, self.now - age),
                key[2],
                fields=fields if modality == "t" else None,
                offset=self.raw,
            )
            self.known[key] = made
        return self.known[key]

    def send(self, events: list[EncodedEvent]) -> None:
        self.offset += 1
        expected = self.model.batch(events)
        outcomes = self.log.write(self.buffer, events, self.offset)
        note(f"{expected}")
        assert sorted(outcomes) == sorted(expected)

    def reopen(self) -> None:
        path = self.dir / f"b{self.n}"
        self.buffer.close()
        self.buffer = open_buffer(path, SHARED)

    batches = st.lists(
        st.tuples(
            identities, st.integers(0, 220), st.dictionaries(st.sampled_from("fghij"), st.booleans(), max_size=3)
        ),
        min_size=1,
        max_size=12,
    )

    @rule(batch=batches, step=st.integers(0, 30))
    def put(self, batch: list[Any], step: int) -> None:
        """New, late and duplicate events, within a batch and across batches."""
        self.now += step
        self.last = [self.make(*args) for args in batch]
        self.send(self.last)

    @rule(batch=batches, jump=st.integers(50, 800))
    def jump(self, batch: list[Any], jump: int) -> None:
        """Time goes on: windows expire, some whole."""
        self.known = {key: made for key, made in self.known.items() if made.ts > self.now - 50}
        self.put(batch, jump)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), shift=st.sampled_from([0, 1, -1]))
    def conflict(self, data: st.DataObject, shift: int) -> None:
        """The same id with other content, at the same or another time: the first is kept."""
        key = data.draw(st.sampled_from(sorted(self.known)))
        first = self.known.pop(key)
        fields = None if first.fields is None else {f.name: True for f in first.fields}
        self.raw += 1
        self.last = []
        self.send(
            [event(key[0], key[1], max(0, first.ts + shift), key[2], content=self.raw, fields=fields, offset=self.raw)]
        )
        if any((w.light | w.items).get(key[2], (None,))[0] is first for w in self.model.windows.values()):
            self.known[key] = first

    @rule(user=st.sampled_from(USERS), age=st.integers(-60, 220), again=batches)
    def erase(self, user: str, age: int, again: list[Any]) -> None:
        """In the midst of a batch: what is not newer goes, and what comes late does not come back."""
        self.raw += 1
        events = [self.make(*args) for args in again]
        erasure = event(user, ERASURE, max(1, self.now - age), f"x{self.raw}", offset=self.raw)
        self.last = [*events[: len(events) // 2], erasure, *events[len(events) // 2 :]]
        self.send(self.last)

    @rule()
    def reopen_buffers(self) -> None:
        self.reopen()
        self.replica.close()
        self.replica = open_buffer(self.dir / "replica", SHARED, replica=True)

    @rule(batch=batches, cut=st.integers(0, 40), split=st.integers(1, 5), chunk=st.integers(1, 9))
    def crash_between_log_and_commit(self, batch: list[Any], cut: int, split: int, chunk: int) -> None:
        """The batch reaches the log in part, or whole, but not the database; it is done again in other pieces.

        Of events over a window late, what was covered may depend on the pieces (`WindowRules.due`).
        """
        late = 2 * WINDOW_MS - GRANULARITY_MS
        events = [made for args in batch if (made := self.make(*args)).ts > self.now - late]
        changes = self.buffer.prepare(events, source_offset=self.offset + 1)
        rows = [(row, False) for row in changes.rows] + [(row, True) for row in changes.sweep_rows]
        for row, sweep in rows[:cut]:
            self.log.append([row], sweep=sweep)
        self.reopen()
        self.log.replay(self.buffer, chunk=chunk)
        self.buffer.finish_restore()
        check_sums(self.buffer, modalities())
        for start in range(0, len(events), split):
            self.offset += 1
            self.model.batch(events[start : start + split])
            self.log.write(self.buffer, events[start : start + split], self.offset)
        self.last = events

    @rule(chunk=st.integers(1, 50), bulk=st.booleans(), part=st.floats(0, 1), finish=st.booleans())
    def lose_the_disk(self, chunk: int, bulk: bool, part: float, finish: bool) -> None:
        """Restored from the log alone, in two goes; the last batch is read again, as Kafka's offset may lag.

        Finished in between, as a standby does, or not: nothing is left to recompute, and sums equal those of the model.
        """
        upto = round(part * len(self.log))
        self.buffer.close()
        self.n += 1
        self.buffer = open_buffer(self.dir / f"b{self.n}", SHARED)
        with self.buffer.bulk_load() if bulk else nullcontext():
            self.log.replay(self.buffer, chunk=chunk, upto=upto)
        if upto < len(self.log):
            if finish:
                self.buffer.finish_restore()
            self.reopen()
            self.log.replay(self.buffer, chunk=chunk)
        assert self.buffer.finish_restore() == 0
        self.model.batch(self.last)
        self.log.write(self.buffer, self.last, self.offset)

    @rule()
    def checkpoint(self) -> None:
        self.n += 1
        path = self.dir / f"b{self.n}"
        self.buffer.checkpoint(path)
        self.buffer.close()
        self.buffer = open_buffer(path, SHARED)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert dict(self.buffer.rows()) == self.model.rows()
        assert self.buffer.stream_time == self.model.stream_time
        assert list(self.buffer.users()) == sorted(
            {u for u, _ in self.model.windows}, key=lambda u: (len(u.encode()), u.encode())
        )

    @invariant()
    def replica_equals(self) -> None:
        self.log.replay(self.replica, mark_dirty=True)
        assert dict(self.replica.rows()) == self.model.rows()
        assert {u for u, _ in self.model.windows} <= {d.user_id for d in self.replica.dirty}

    @invariant()
    def every_window_is_looked_at_in_time(self) -> None:
        """The expiry index has an entry that is not later than what is due, however the summary came here."""
        db = self.buffer._db
        entries = [parse_expiry_key(key) for key, _ in db.items(db.expiry, b"")]
        for (user, modality), window in self.model.windows.items():
            lag = MEMORY_MS - WINDOW_MS
            due = [made.ts for made, _ in window.items.values()] + [made.ts + lag for made, _ in window.light.values()]
            if due:
                mine = [e.ts for e in entries if (e.modality, e.user_id) == (modality, user)]
                assert min(mine) <= max(min(due), 1)


def _checked(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestBuffer = BufferMachine.TestCase
TestBuffer.settings = _checked(8)


@pytest.mark.long
class TestBufferLong(BufferMachine.TestCase):
    settings = _checked(100)
