"""Ad-hoc queries: who answers them, played by a test, and who asks them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from store.records.embed_messages import EmbedReply
from stream.kafka.client import Connection
from stream.serve.embed_client import EmbedClient
from stream.topics import Topics
from tests.support.worker_bench import wait_until


class Asked(NamedTuple):
    """What was asked."""

    user_id: str
    query: str
    prompt: str | None
    timeout_ms: int


class Embedder:
    """Answers as a test says, or leaves the future open."""

    def __init__(self, answer: Callable[[], EmbedReply] | None) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.futures: list[Future[EmbedReply]] = []

    def ask(self, user_id: str, query: str, prompt: str | None, timeout_ms: int) -> Future[EmbedReply]:
        self.asked.append(Asked(user_id, query, prompt, timeout_ms))
        future: Future[EmbedReply] = Future()
        self.futures.append(future)
        if self.answer is not None:
            future.set_result(self.answer())
        return future


@contextmanager
def asking(connection: Connection, topics: Topics) -> Iterator[EmbedClient]:
    """serve's client at work on a thread of its own."""
    client, stop = EmbedClient(connection, topics), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            client.run(stop)
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: bool(failures) or not client.ask("nobody", "?", None, 1).done(), "replies are read")
        yield client
    finally:
        stop.set()
        thread.join(30)
    assert not failures
    assert not thread.is_alive()
