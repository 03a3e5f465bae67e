"""The body of a request: read whole, within bounds of its own size, of all bodies being read, and of time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from store.http.auth import header
from store.http.problems import ClientGone, ProblemError

MAX_BODY_BYTES = 64 << 10
LONG_BODY_BYTES = 4 << 20
"""Of a search: an allow list of 100,000 ids of 36 bytes, or 256 vectors."""
LONG_BODIES = re.compile(r"/v1/scenarios/[^/]+/neighbors")
ALL_BODIES_BYTES = 64 << 20
"""Of all requests together, while they are read and until they are answered."""
BODY_SECONDS = 20.0
DRAINED_BYTES = 64 << 10
"""An unread body up to this length is swallowed, and the connection lives on; with a longer one it is closed."""


class Bodies:
    """The bytes of all bodies held."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def reading(self) -> Iterator[Share]:
        share = Share(self)
        try:
            yield share
        finally:
            self._held -= share.size

    def take(self, size: int) -> None:
        if self._held + size > ALL_BODIES_BYTES:
            raise ProblemError("busy", "too many bodies are being read: ask again in a moment")
        self._held += size


class Share:
    """What one request holds of them."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    def add(self, size: int) -> None:
        """Raises ProblemError: busy."""
        self._bodies.take(size)
        self.size += size


async def whole(scope: Scope, receive: Receive, share: Share) -> bytes:
    """The body. Raises ProblemError: body_too_large, request_timeout, busy; or ClientGone."""
    most = LONG_BODY_BYTES if LONG_BODIES.fullmatch(scope["path"]) else MAX_BODY_BYTES
    too_large = ProblemError("body_too_large", f"a body has at most {most} bytes here")
    if declared(scope) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > most:
                    raise too_large
                share.add(len(chunk))
                body += chunk
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ProblemError("request_timeout", f"the body did not come within {BODY_SECONDS:g} s") from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` with the body read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def declared(scope: Scope) -> int:
    length = header(scope, b"content-length")
    return int(length) if length.isdigit() else 0


def unread(scope: Scope) -> bool:
    """Whether a body comes that is too long to be swallowed."""
    return bool(header(scope, b"transfer-encoding")) or declared(scope) > DRAINED_BYTES
