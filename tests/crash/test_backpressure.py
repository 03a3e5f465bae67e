"""A role that does not read lets the backlog wait on the broker: nobody else's memory grows for it."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from stream.lag.reader import LagReader, plan
from tests.crash.system import TIMEOUT, System, system
from tests.support.behaviour import DAY_MS, NOW, Message, behaviour
from tests.support.memory import resident_bytes

EVENTS = 20_000
PADDING = 4_000
"""Characters of one word in each event's text: what is kept of a backlog somewhere is seen."""
GROWTH = 1.03
CONSTANT = 32 << 20
ALL = ("ingest", "processor", "worker", "serve")
READING = {"worker": {"ingest", "processor"}, "serve": {"ingest", "processor", "worker"}}
"""Frozen role → who goes on reading meanwhile. What is usual comes from a first run: ingest had a backlog to catch up
with, so that fetch queues (64 MB each, librdkafka's default) were full."""

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


def test_a_frozen_role_grows_nobodys_memory(
    tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder
) -> None:
    with system(tmp_path, spawn) as s:
        usual = most_while_frozen(s, "ingest", {"processor"}, stream(0, EVENTS))
        usual |= until_read(s, ALL)
        for number, (frozen, reading) in enumerate(READING.items(), start=1):
            s.wait_drained()
            most = most_while_frozen(s, frozen, reading, stream(number, EVENTS))
            figures = ", ".join(f"{name} {usual[name] / 1e6:.0f} → {most[name] / 1e6:.0f}" for name in sorted(most))
            print(f"{frozen} frozen, most MB resident: {figures}", flush=True)  # noqa: T201
            for name, size in most.items():
                assert size <= GROWTH * usual[name] + CONSTANT, f"{name} while {frozen} was frozen: {figures}"
        s.wait_drained()
        s.check(texts, users)


def most_while_frozen(s: System, frozen: str, reading: Collection[str], messages: Sequence[Message]) -> dict[str, int]:
    """Send to a system in which one role is frozen; see `until_read`."""
    s.launcher.kill(frozen, signal.SIGSTOP)
    try:
        s.send(messages)
        return until_read(s, reading, frozen)
    finally:
        s.launcher.kill(frozen, signal.SIGCONT)


def stream(number: int, events: int) -> list[Message]:
    """Later than the stream before; its accepted events have long texts."""
    made = behaviour(number, users=30, events=events, start_ms=NOW + number * 2 * DAY_MS, label=f"s{number}e")
    return [heavy(message) for message in made.messages]


def heavy(message: Message) -> Message:
    if message.fate not in ("accepted", "duplicate"):
        return message
    event = json.loads(message.value or b"")
    for field in event.keys() & {"page", "shop"}:
        event[field] += " " + "x" * PADDING
    return replace(message, value=json.dumps(event).encode())


def until_read(s: System, reading: Collection[str], frozen: str = "") -> dict[str, int]:
    """Wait until these roles have read everything; returns the most bytes each process but the frozen one took."""
    raw = {m.topic for m in s.settings.modalities.values()}
    most: dict[str, int] = {}
    deadline = time.monotonic() + 400
    groups = [group for group in plan(s.topics, raw, s.settings.scenarios) if group.role in reading]
    with contextlib.closing(LagReader(s.launcher.connection, groups)) as lag:
        while True:
            for name, pid in s.launcher.pids().items():
                if name != f"{frozen}-0":
                    most[name] = max(most.get(name, 0), resident_bytes(pid))
            report = lag.read(max_age_seconds=0)
            if report.whole and not report.lag_messages:
                return most
            assert time.monotonic() < deadline, f"{report.lag_messages} messages left, {report.status}"
            time.sleep(0.1)
