"""Who answers ad-hoc queries, played by a test."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from store.embed_messages import EmbedReply


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
