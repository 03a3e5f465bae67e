"""`python -m tests.support.attack_bench`: what strangers cost `/livez`, quiet and under attack, in one run.

quiet and attack alternate, so that what else the machine does falls on both.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from contextlib import ExitStack
from multiprocessing.synchronize import Event

import httpx
import numpy as np

from tests.support.live_server import Alone, Raw, post

ROUNDS, CALLS = 6, 150
NEIGHBORS = "/v1/scenarios/churn/neighbors"


def attack(url: str, stop: Event) -> None:
    """Half-sent posts and long unfinished bodies, as fast as one process sends them."""
    while not stop.is_set():
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(Raw(url, post("/v1/embed", b"x", length=1000)))
                stack.enter_context(Raw(url, post(NEIGHBORS, length=16 << 20) + bytes(1 << 20)))


def measure(client: httpx.Client, url: str) -> list[float]:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        client.get(f"{url}/livez")
        took.append((time.perf_counter() - began) * 1000)
    return took


def main() -> None:
    """Print a line each and the ratio."""
    with Alone(read_token="reader") as alone, httpx.Client(timeout=60) as client:
        found: dict[str, list[float]] = {"quiet": [], "attack": []}
        memory: dict[str, float] = {}
        spawn = multiprocessing.get_context("spawn")
        for _ in range(ROUNDS):
            found["quiet"] += measure(client, alone.url)
            stop = spawn.Event()
            attacker = spawn.Process(target=attack, args=(alone.url, stop))
            attacker.start()
            found["attack"] += measure(client, alone.url)
            memory["attack"] = alone.memory_mb()
            stop.set()
            attacker.join()
            memory["quiet"] = alone.memory_mb()
        p99 = {}
        for name, took in found.items():
            p50, p99[name] = np.percentile(took, (50, 99))
            sys.stdout.write(f"{name}: p50 {p50:.1f} ms, p99 {p99[name]:.1f} ms, {memory[name]:.0f} MB\n")
        sys.stdout.write(f"p99 attack / quiet: {p99['attack'] / p99['quiet']:.2f}\n")


if __name__ == "__main__":
    main()
