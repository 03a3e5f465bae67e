"""Around every request: who asks, a bound on the body, the time it took, and what nobody foresaw as a problem.

In this order, so that somebody without a token costs nothing: name and token are judged by the head of the request;
only then the body is read, whole, within bounds of its own size, of all bodies being read, and of time.
"""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.base import logs, metrics
from store.base.settings import ServeSettings
from store.http.auth import OPEN_PATHS, check_access, check_host, header, needed
from store.http.body import Bodies, replayed, unread, whole
from store.http.problems import ClientGone, ProblemError, as_answer, problem

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
log = logs.get(__name__)


class Guarded:
    """ASGI middleware; the route is a template, so that metrics never carry a user id."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        is_head = scope["method"] == "HEAD"
        asked = {**scope, "method": "GET"} if is_head else scope
        swallowed = not unread(scope)

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
                    body = await whole(scope, receive, share)
                    swallowed = True
                    await self._app(asked, replayed(body, receive), watched)
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


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "(none)"))
