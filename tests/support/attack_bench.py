"""`python -m tests.support.attack_bench`: what each attack costs `/livez`, quiet and under it, in one run;
at the service's own port, where it waits among all requests, and at the one that probes ask.

quiet and attack alternate, so that what else the machine does falls on both. `refused`: calls that got no 200.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Event

import httpx
import numpy as np

from tests.support.live_server import Alone, Raw, post

ROUNDS, CALLS, USERS = 4, 150, 1000
CONNECTIONS = 1024
NEIGHBORS = "/v1/scenarios/churn/neighbors"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer reader\r\n\r\n".encode()


def unfinished(url: str, stop: Event) -> None:
    """Half-sent posts and long unfinished bodies, as fast as one process sends them."""
    while not stop.is_set():
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(Raw(url, post("/v1/embed", b"x", length=1000)))
                stack.enter_context(Raw(url, post(NEIGHBORS, length=16 << 20) + bytes(1 << 20)))


def waiters(url: str, stop: Event) -> None:
    """As many as there are connections, each for an event that never comes; and who is refused comes again."""
    request = get("/v1/users/u0/embeddings/churn?min_offset=raw:0:9&timeout_ms=60000")
    while not stop.is_set():
        with ExitStack() as stack:
            for _ in range(CONNECTIONS + 100):
                stack.enter_context(Raw(url, request))
                if stop.is_set():
                    return
            stop.wait(1.0)


def non_readers(url: str, stop: Event) -> None:
    """Long answers that nobody takes."""
    with ExitStack() as stack:
        while not stop.is_set():
            page = get("/v1/scenarios/churn/embeddings?limit=1000")
            stack.enter_context(Raw(url, page * 4, receive_buffer=4096))


def tiny_chunks(url: str, stop: Event) -> None:
    """Of strangers and of those with a token, 40,000 chunks of a byte each."""
    chunks = b"1\r\nx\r\n" * 40_000
    while not stop.is_set():
        for token in ("wrong", "reader"):
            with Raw(url, post(NEIGHBORS, chunks, chunked=True, token=token)) as raw:
                raw.answer()


def long_heads(url: str, stop: Event) -> None:
    """Of 120 KB, in one piece, and of many short headers."""
    lines = b"".join(b"x-%d: y\r\n" % i for i in range(10_000))
    while not stop.is_set():
        with Raw(url, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n") as raw:
            raw.answer()


ATTACKS: dict[str, Callable[[str, Event], None]] = {
    attack.__name__: attack for attack in (unfinished, waiters, non_readers, tiny_chunks, long_heads)
}


def measure(client: httpx.Client, url: str) -> tuple[list[float], int]:
    """Milliseconds of each call, and how many were not answered 200."""
    took, refused = [], 0
    for _ in range(CALLS):
        began = time.perf_counter()
        try:
            refused += client.get(f"{url}/livez").status_code != 200
        except httpx.HTTPError:
            refused += 1
        took.append((time.perf_counter() - began) * 1000)
    return took, refused


def run(name: str) -> str:
    """Two lines about an attack."""
    with Alone(read_token="reader", users=USERS, limits={"connections": CONNECTIONS}) as alone:
        asked = {"livez": alone.url, "livez of the probes' port": alone.health_url}
        found: dict[str, dict[str, list[float]]] = {what: {"quiet": [], "attack": []} for what in asked}
        refused = dict.fromkeys(asked, 0)
        spawn = multiprocessing.get_context("spawn")
        memory = 0.0
        for _ in range(ROUNDS):
            for what, url in asked.items():
                with httpx.Client(timeout=60) as client:
                    found[what]["quiet"] += measure(client, url)[0]
            stop = spawn.Event()
            attacker = spawn.Process(target=ATTACKS[name], args=(alone.url, stop))
            attacker.start()
            time.sleep(3.0)  # it has to start an interpreter, and to fill what it fills
            for what, url in asked.items():
                with httpx.Client(timeout=60) as client:
                    took, lost = measure(client, url)
                found[what]["attack"] += took
                refused[what] += lost
            memory = max(memory, alone.memory_mb())
            stop.set()
            attacker.join()
        lines = []
        for what, times in found.items():
            (quiet50, quiet99), (attack50, attack99) = (np.percentile(took, (50, 99)) for took in times.values())
            lines.append(
                f"{name}, {what}: quiet p50 {quiet50:.1f} p99 {quiet99:.1f} ms, attack p50 {attack50:.1f} "
                f"p99 {attack99:.1f} ms, p99 ratio {attack99 / quiet99:.2f}, refused {refused[what]} of "
                f"{ROUNDS * CALLS}, {memory:.0f} MB\n"
            )
        return "".join(lines)


def main() -> None:
    """Each; the names of attacks as arguments choose."""
    for name in sys.argv[1:] or ATTACKS:
        sys.stdout.write(run(name))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
