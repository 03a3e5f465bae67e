"""One writer, many readers: no torn row, no user twice, no erased user, and nobody starves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from store.index.index import ScenarioIndex
from store.index.matrix import Matrix
from store.index.read_write_lock import ReadWriteLock
from tests.support.index_twin import entry

DIM = 64
SECONDS = 1.5


def test_every_answer_is_of_one_moment() -> None:
    """Each user's row is always one of two known vectors; a torn row would score like neither."""
    rng = np.random.default_rng(1)
    a, b = (np.sign(rng.standard_normal(DIM)).astype(np.float32) for _ in range(2))
    query = (a / np.linalg.norm(a)).astype(np.float32)
    possible = [float(query @ (v / np.linalg.norm(v))) for v in (a, b)]
    users = [f"u{i}" for i in range(400)]
    index = ScenarioIndex("s", dim=DIM, capacity=8)
    failures: list[str] = []
    ended = threading.Event()
    batches = queries = 0

    def write() -> None:
        nonlocal batches
        offset = 0
        gone: set[str] = set()
        while not ended.is_set():
            batch = []
            for user in users if batches % 2 else users[::-1]:
                offset += 1
                erase = offset % 7 == 0
                batch.append(entry(user, offset, None if erase else (a if batches % 2 else b)))
                (gone.add if erase else gone.discard)(user)
            index.apply(batch, now_ms=1)
            batches += 1

    def read() -> None:
        nonlocal queries
        while not ended.is_set():
            (answer,) = index.search(query, k=500).answers
            seen = [user for user, _ in answer.neighbors]
            if len(set(seen)) != len(seen):
                failures.append("a user twice")
            wrong = [s for _, s in answer.neighbors if min(abs(s - p) for p in possible) > 1e-5]
            if wrong:
                failures.append(f"scores {wrong[:3]} of no whole row")
            stored = index.get(users[queries % 400])
            if stored is not None and len(np.unique(np.abs(stored.record.vector))) != 1:
                failures.append("a torn record")
            queries += 1

    guarded = [_guarded(write, failures, ended), *(_guarded(read, failures, ended) for _ in range(3))]
    _run(guarded, ended)
    assert not failures, failures[:3]
    assert batches > 10
    assert queries > 10


def test_the_writer_does_not_starve_under_readers_in_a_closed_loop() -> None:
    index = ScenarioIndex("s", dim=DIM, capacity=30_000)
    rng = np.random.default_rng(2)
    index.apply([entry(f"u{i}", i, v) for i, v in enumerate(rng.standard_normal((20_000, DIM), np.float32))], now_ms=1)
    waits: list[float] = []
    searches: list[float] = []
    failures: list[str] = []
    ended = threading.Event()

    def write() -> None:
        offset = 20_000
        while not ended.is_set():
            offset += 1
            started = time.perf_counter()
            index.apply([entry("u1", offset, np.ones(DIM, np.float32))], now_ms=1)
            waits.append(time.perf_counter() - started)
            time.sleep(0.005)

    def read() -> None:
        while not ended.is_set():
            started = time.perf_counter()
            index.search(np.ones(DIM, np.float32), k=10)
            searches.append(time.perf_counter() - started)

    _run([_guarded(write, failures, ended), *(_guarded(read, failures, ended) for _ in range(4))], ended)
    assert not failures, failures[:3]
    assert len(searches) > 100
    # a plain lock leaves the writer waiting for seconds; here it waits for the searches already begun
    assert np.median(waits) < 10 * max(np.median(searches), 0.005)


def test_a_growing_index_keeps_readers_on_memory_that_lives() -> None:
    index = ScenarioIndex("s", dim=DIM, capacity=1)
    failures: list[str] = []
    ended = threading.Event()
    rng = np.random.default_rng(3)

    def write() -> None:
        offset = 0
        while not ended.is_set() and offset < 100_000:
            vectors = rng.standard_normal((500, DIM), np.float32)
            index.apply([entry(f"u{offset + i}", offset + i, v) for i, v in enumerate(vectors)], now_ms=1)
            offset += 500
        ended.wait()

    def read() -> None:
        while not ended.is_set():
            index.search(np.ones(DIM, np.float32), k=5)
            index.page("", 3)

    _run([_guarded(write, failures, ended), _guarded(read, failures, ended)], ended)
    assert not failures, failures[:3]
    assert len(index) > 2000


def test_lock_lets_readers_share_and_a_writer_in_between() -> None:
    lock = ReadWriteLock()
    order: list[str] = []
    inside = threading.Barrier(2, timeout=5)

    def reader() -> None:
        with lock.read():
            inside.wait()  # both are inside at once, or this breaks

    pair = [threading.Thread(target=reader) for _ in range(2)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()

    def ask(name: str, kind: str) -> threading.Thread:
        def hold() -> None:
            with getattr(lock, kind)():
                order.append(name)

        thread = threading.Thread(target=hold)
        thread.start()
        time.sleep(0.05)
        return thread

    with lock.read():
        waiting = [ask("writer", "write"), ask("late reader", "read")]
        assert order == []
    for thread in waiting:
        thread.join(5)
    assert order == ["writer", "late reader"]


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 9])
def test_rows_that_take_part_are_searched_and_no_others(share: float, count: int) -> None:
    rng = np.random.default_rng(4)
    matrix = Matrix(5000, 16)
    matrix.rows[:4000] = rng.standard_normal((4000, 16))
    selected = np.sort(rng.choice(3000, max(1, int(3000 * share)), replace=False)).astype(np.int64)
    mask = np.zeros(3000, bool)
    mask[selected] = True
    queries = rng.standard_normal((count, 16)).astype(np.float32)
    fetch = min(20, len(selected))
    scores, rows = matrix.top(queries, fetch, start=1000, stop=4000, mask=mask)
    for query, found, found_scores in zip(queries, rows, scores, strict=True):
        expected = 1000 + selected[np.argsort(-(matrix.rows[1000 + selected] @ query))[:fetch]]
        best = found[np.argsort(-found_scores)][:fetch]
        assert set(best) == set(expected)
        assert {row for row in found if row >= 0} <= set(1000 + selected)


def _guarded(run: Callable[[], None], failures: list[str], ended: threading.Event) -> threading.Thread:
    def guarded() -> None:
        try:
            run()
        except Exception as exc:
            failures.append(repr(exc))
            ended.set()

    return threading.Thread(target=guarded)


def _run(threads: list[threading.Thread], ended: threading.Event) -> None:
    for thread in threads:
        thread.start()
    ended.wait(SECONDS)
    ended.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
