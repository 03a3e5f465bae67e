"""Random faults from a seed while a seeded stream is sent; afterwards all is as the reference says.

`make crash SEED=… ROUNDS=… GO_ON=1`: CRASH_SEED (first seed, default 1), CRASH_ROUNDS (default 3), CRASH_GO_ON (a seed
that fails is told, and the next begins with a fresh system; the run fails at its end). Rounds share one system, a new
one every SYSTEM_ROUNDS: each goes on from the state the last one left. Several runs at once do not meet.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from deploy.operate.service_client import Service
from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.crash import invariants
from tests.crash.faults import NAMES, SETTINGS, Harm, plan
from tests.crash.system import TIMEOUT, System
from tests.crash.verdict import KINDS

SEED = int(os.environ.get("CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
GO_ON = os.environ.get("CRASH_GO_ON", "") not in ("", "0")
SYSTEM_ROUNDS = 50
SECONDS = 5.0
EVENTS = 250
DAYS = 10
"""Of event time from one round to the next: who clicked once has left after six or seven."""

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(TIMEOUT + 500 * ROUNDS)]


class Tally:
    """What all rounds add up to."""

    def __init__(self) -> None:
        self.rounds = self.messages = 0
        self.found: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.failed: list[int] = []

    def __str__(self) -> str:
        found = ", ".join(f"{kind} {self.found[kind]}" for kind in KINDS)
        faults = ", ".join(f"{name} {self.faults[name]}" for name in NAMES)
        return f"{self.rounds} rounds, {self.messages} messages: {found}; failed seeds {self.failed}; faults: {faults}"


def test_random_faults(tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder) -> None:
    gc.collect()
    gc.freeze()  # the models' objects; buffers that are looked into are closed by a collection
    tally = Tally()
    seeds = list(range(SEED, SEED + ROUNDS))
    try:
        while seeds:
            folder = tmp_path / f"from-{seeds[0]}"
            try:
                with System(folder, spawn, further=SETTINGS, worker=2, monitor=1) as s, s.telling():
                    for _ in range(min(SYSTEM_ROUNDS, len(seeds))):
                        one_round(s, seeds[0], tally, texts, users)
                        del seeds[0]
            except Exception:
                tally.failed.append(seeds.pop(0))
                say(f"seed {tally.failed[-1]}: FAILED, see {folder}")
                if not GO_ON:
                    raise
                traceback.print_exc()
            else:
                shutil.rmtree(folder)
    finally:
        say(str(tally))
    assert not tally.failed


def one_round(s: System, seed: int, tally: Tally, texts: TextEncoder, users: UserEncoder) -> None:
    """Raises AssertionError: what was found."""
    began, before, records = time.monotonic(), len(s.sent), s.history.records
    tally.rounds += 1
    harm = Harm(s, seed)
    try:
        play(s, seed, harm)
        sent = time.monotonic()
        s.wait_drained()
        drained = time.monotonic()
        verdict = s.judge(texts, users)
    finally:
        tally.messages += len(s.sent) - before
        tally.faults += harm.counts
        happened = "; ".join(harm.done)
        say(f"seed {seed}: {happened}")
    tally.found += verdict.counts
    verdict.demand_innocence()
    invariants.lag_is_ok(Service.find(s.settings, None))
    end = time.monotonic()
    say(
        f"seed {seed}: ok, {verdict}; {len(s.sent) - before} messages, {s.history.records - records} records; "
        f"{end - began:.1f} s: sent {sent - began:.1f}, drained {drained - sent:.1f}, judged {end - drained:.1f}"
    )


def play(s: System, seed: int, harm: Harm) -> None:
    """Send one round's stream while its faults happen; returns when all is sent and nothing is frozen or cut."""
    messages = s.stream(seed, users=12, events=EVENTS, days=DAYS, unnamed=0.1, passers_by=6)
    with s.sending(messages, seconds=SECONDS):
        began = time.monotonic()
        for fault in plan(seed, seconds=SECONDS):
            while time.monotonic() - began < fault.at:
                time.sleep(0.05)
                harm.tick()
            harm.carry_out(fault)
        harm.mend()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def test_every_kind_of_fault_is_planned() -> None:
    """Within the seeds of a short run, and in proportion over a long one."""
    assert {fault.name for seed in range(1, 31) for fault in plan(seed, seconds=SECONDS)} == NAMES.keys()
    planned = Counter(fault.name for seed in range(1, 301) for fault in plan(seed, seconds=SECONDS))
    for name, weight in NAMES.items():
        assert planned[name] > 0.5 * weight / sum(NAMES.values()) * planned.total(), name
