"""Random faults from a seed while a seeded stream is sent; afterwards buffer and embeddings equal the reference.

CRASH_SEED (first seed, default 1) and CRASH_ROUNDS (default 10): `make crash SEED=… ROUNDS=…`. Rounds share one system:
each goes on from the state the last one left.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.crash.faults import Harm, plan
from tests.crash.system import System, system
from tests.support.behaviour import DAY_MS, NOW, behaviour

SEED = int(os.environ.get("CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "10"))
SECONDS = 5.0
EVENTS = 250

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(300 + 150 * ROUNDS)]


def test_random_faults(tmp_path: Path, texts: TextEncoder, users: UserEncoder) -> None:
    with system(tmp_path) as s:
        for number, seed in enumerate(range(SEED, SEED + ROUNDS)):
            began = time.monotonic()
            harm = play(s, seed, number)
            s.wait_drained()
            s.check(texts, users)
            took = time.monotonic() - began
            print(f"seed {seed}: ok in {took:.0f} s, {len(s.sent)} messages so far; {'; '.join(harm.done)}", flush=True)  # noqa: T201


def play(s: System, seed: int, number: int) -> Harm:
    """Send one round's stream while its faults happen; returns when all is sent and nothing is frozen."""
    stream = behaviour(seed, users=12, events=EVENTS, start_ms=NOW + number * 2 * DAY_MS, label=f"s{seed}e")
    failures: list[BaseException] = []

    def send() -> None:
        try:
            s.send(stream.messages, per_second=len(stream.messages) / SECONDS)
        except BaseException as exc:
            failures.append(exc)
            raise

    sender = threading.Thread(target=send)
    sender.start()
    began = time.monotonic()
    harm = Harm(s, seed)
    for fault in plan(seed, seconds=SECONDS):
        while time.monotonic() - began < fault.at:
            time.sleep(0.05)
            harm.tick()
        harm.carry_out(fault)
    sender.join()
    harm.thaw()
    assert not failures
    return harm
