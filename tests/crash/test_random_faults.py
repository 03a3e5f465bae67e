"""Random faults from a seed while a seeded stream is sent; afterwards buffer and embeddings equal the reference.

CRASH_SEED (first seed, default 1) and CRASH_ROUNDS (default 3): `make crash SEED=… ROUNDS=…`. Rounds share one system:
each goes on from the state the last one left.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.crash.faults import Harm, plan
from tests.crash.system import TIMEOUT, System, system

SEED = int(os.environ.get("CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
SECONDS = 5.0
EVENTS = 250

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(TIMEOUT + 500 * ROUNDS)]


def test_random_faults(tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder) -> None:
    with system(tmp_path, spawn, worker=2) as s:
        for seed in range(SEED, SEED + ROUNDS):
            began = time.monotonic()
            harm = play(s, seed)
            s.wait_drained()
            s.check(texts, users)
            took = time.monotonic() - began
            print(f"seed {seed}: ok in {took:.0f} s, {len(s.sent)} messages so far; {'; '.join(harm.done)}", flush=True)  # noqa: T201


def play(s: System, seed: int) -> Harm:
    """Send one round's stream while its faults happen; returns when all is sent and nothing is frozen or cut."""
    harm = Harm(s, seed)
    with s.sending(s.stream(seed, users=12, events=EVENTS), seconds=SECONDS):
        began = time.monotonic()
        for fault in plan(seed, seconds=SECONDS):
            while time.monotonic() - began < fault.at:
                time.sleep(0.05)
                harm.tick()
            harm.carry_out(fault)
        harm.mend()
    return harm
