"""Around every request: its duration, a bound on its body, and what nobody foresaw as a problem and a log line."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.base import logs, metrics
from store.http.problems import problem

MAX_BODY_BYTES = 16 << 20
"""An allow list of 100,000 ids of 128 bytes, with room to spare."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
log = logs.get(__name__)


class Observed:
    """ASGI middleware; the route is a template, so that metrics never carry a user id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            body = await _bounded(receive) if scope["method"] in _WITH_BODY else receive
            if body is None:
                await problem("body_too_large", f"a body has at most {MAX_BODY_BYTES} bytes")(scope, receive, watched)
            else:
                await self._app(scope, body, watched)
        except Exception as exc:
            log.error(logs.HTTP_FAILED, method=scope["method"], route=_route(scope), exc_info=exc)
            if status:
                raise  # half an answer is out: let the server cut the connection
            await problem("internal", "the error is in the log of serve")(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            labels = (method, _route(scope), str(status or 499))
            metrics.HTTP_SECONDS.labels(*labels).observe(time.perf_counter() - started)


async def _bounded(receive: Receive) -> Receive | None:
    """`receive` with the body read already; None if there is too much of it."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            return None
        messages.append(message)
        if not message.get("more_body", False):
            break
    messages.reverse()

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "(none)"))
