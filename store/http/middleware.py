"""Around every request: who asks, a bound on the body, the time it took, and what nobody foresaw as a problem.

In this order, so that somebody without a token costs nothing: name and token are judged by the head of the request;
only then the body is read, whole, within bounds of its own size, of all bodies being read, and of time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.base import logs, metrics
from store.base.settings import ServeSettings
from store.http.auth import OPEN_PATHS, check_access, check_host, header, needed
from store.http.problems import ClientGone, ProblemError, as_answer, problem

MAX_BODY_BYTES = 64 << 10
LONG_BODY_BYTES = 4 << 20
"""Of a search: an allow list of 100,000 ids of 36 bytes, or 256 vectors."""
LONG_BODIES = re.compile(r"/v1/scenarios/[^/]+/neighbors")
ALL_BODIES_BYTES = 64 << 20
"""Of all requests together, while they are read and until they are answered."""
BODY_SECONDS = 20.0
DRAINED_BYTES = 64 << 10
"""An unread body up to this length is swallowed, and the connection lives on; with a longer one it is closed."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
log = logs.get(__name__)


class Guarded:
    """ASGI middleware; the route is a template, so that metrics never carry a user id."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        self._bodies = _Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        is_head = scope["method"] == "HEAD"
        asked = {**scope, "method": "GET"} if is_head else scope
        swallowed = not _unread(scope)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not swallowed:
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            self._admit(scope)
            if scope["method"] in _WITH_BODY and scope["path"] not in OPEN_PATHS:
                with self._bodies.reading() as share:
                    body = await _whole(scope, receive, share)
                    swallowed = True
                    await self._app(asked, _replayed(body, receive), watched)
            else:
                await self._app(asked, receive, watched)
        except ClientGone:
            pass
        except ProblemError as exc:
            await as_answer(exc)(asked, receive, watched)
        except Exception as exc:
            log.error(logs.HTTP_FAILED, method=scope["method"], route=_route(asked), exc_info=exc)
            if status:
                raise  # half an answer is out: let the server cut the connection
            await problem("internal", "the error is in the log of serve")(asked, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            labels = (method, _route(asked), str(status or 499))
            metrics.HTTP_SECONDS.labels(*labels).observe(time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        check_host(self._settings, header(scope, b"host"))
        check_access(self._settings, header(scope, b"authorization"), needed(scope["method"], scope["path"]))


class _Bodies:
    """The bytes of all bodies held."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def reading(self) -> Iterator[_Share]:
        share = _Share(self)
        try:
            yield share
        finally:
            self._held -= share.size

    def take(self, size: int) -> None:
        if self._held + size > ALL_BODIES_BYTES:
            raise ProblemError("busy", "too many bodies are being read: ask again in a moment")
        self._held += size


class _Share:
    """What one request holds of them."""

    def __init__(self, bodies: _Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    def add(self, size: int) -> None:
        """Raises ProblemError: busy."""
        self._bodies.take(size)
        self.size += size


async def _whole(scope: Scope, receive: Receive, share: _Share) -> bytes:
    """The body. Raises ProblemError: body_too_large, request_timeout, busy; or ClientGone."""
    most = LONG_BODY_BYTES if LONG_BODIES.fullmatch(scope["path"]) else MAX_BODY_BYTES
    too_large = ProblemError("body_too_large", f"a body has at most {most} bytes here")
    if _declared(scope) > most:
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


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` with the body read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _declared(scope: Scope) -> int:
    length = header(scope, b"content-length")
    return int(length) if length.isdigit() else 0


def _unread(scope: Scope) -> bool:
    """Whether a body comes that is too long to be swallowed."""
    return bool(header(scope, b"transfer-encoding")) or _declared(scope) > DRAINED_BYTES


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "(none)"))
