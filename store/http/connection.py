"""A connection of the HTTP service, bounded: how many there are, and how slow a client may be.

uvicorn bounds the bytes of a head and an idle connection's time; here is what it leaves open. A client that does not
send its head or body in time, or does not take its answer, is cut off. At the bound on connections the one that has
waited longest without being worked for makes room, so that many who say nothing keep nobody out.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from store.base import metrics
from store.http.body import BODY_SECONDS
from store.http.problems import KINDS, MEDIA_TYPE, RETRY_SECONDS, Problem

HEAD_BYTES = 16 << 10
KEEP_ALIVE_SECONDS = 15
ACCEPTED_AT_ONCE = 128
"""Connections taken from the listening socket in one go, before the first of them can be refused."""
_CHECK_SECONDS = 0.5
_ANSWER_BYTES_PER_SECOND = 64 << 10


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """connections: at once. head_seconds: from the connection, or the end of the answer before, to a whole head.

    body_seconds: from there to the end of the body, read or not. answer_seconds: for what is left of an answer, beside
    a second per 64 KiB. linger_seconds: how long what is still sent is swallowed after an answer that closes.
    """

    connections: int
    head_seconds: float = KEEP_ALIVE_SECONDS + 5.0
    body_seconds: float = BODY_SECONDS + 5.0
    answer_seconds: float = 20.0
    linger_seconds: float = 2.0


DEFAULT_LIMITS = ConnectionLimits(connections=1024)


@dataclass(slots=True)
class Connections:
    """What the connections of one server share. waiting: those nobody works for, in order of since when."""

    limits: ConnectionLimits
    waiting: dict[BoundedConnection, None] = field(default_factory=dict)


class _LingeringTransport:
    """A transport whose `close` first swallows what the client is still sending.

    Closed with bytes unread, a socket answers with a reset, which may overtake the answer that says why.
    """

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._connection.linger():
            self._transport.close()


class BoundedConnection(H11Protocol):
    """uvicorn's protocol within limits; made by the server for each connection."""

    def __init__(self, *args: Any, shared: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shared = shared
        self._raw: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._phase: tuple[str, int] = ("", 0)
        self._since = 0.0
        self._answered = 0
        self._answer_deadline: float | None = None
        self._lingers = False

    # ---- what happens ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]
        self._raw = transport
        metrics.HTTP_CONNECTIONS.set(len(self.connections))
        self._since = self.loop.time()
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        if len(self.connections) > self._shared.limits.connections and not self._make_room():
            self._refuse("busy", "too many connections: ask again in a moment", reason="full")
            return
        self._shared.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        metrics.HTTP_CONNECTIONS.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self._lingers or self.transport.is_closing():
            return
        super().data_received(data)
        if not self._idle():
            self._shared.waiting.pop(self, None)
        elif not self.transport.is_closing():
            self._shared.waiting.setdefault(self)

    def eof_received(self) -> None:
        if self._lingers and self._raw is not None:
            self._raw.close()

    def on_response_complete(self) -> None:
        self._answered += 1
        super().on_response_complete()
        if self._idle() and not self.transport.is_closing():
            self._shared.waiting.setdefault(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        left = self.transport.get_write_buffer_size()
        self._answer_deadline = self.loop.time() + self._shared.limits.answer_seconds + left / _ANSWER_BYTES_PER_SECOND

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_deadline = None

    def send_400_response(self, msg: str) -> None:
        self._refuse("http_invalid", msg, reason="malformed")

    # ---- what is too much ------------------------------------------------------------------------------------------

    def linger(self) -> bool:
        """The connection is to be closed: whether that is put off, because the client is still sending."""
        if self._lingers:
            return True
        if self.conn.their_state is not h11.SEND_BODY or self._raw is None or self._raw.is_closing():
            return False
        self._lingers = True
        self._since = self.loop.time()
        self._unset_keepalive_if_required()
        self._raw.resume_reading()
        if self._raw.can_write_eof():
            self._raw.write_eof()
        return True

    def _idle(self) -> bool:
        """No request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _check(self) -> None:
        now, limits = self.loop.time(), self._shared.limits
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        if self._lingers or self.transport.is_closing():
            phase = "closing"
        elif self.conn.their_state is h11.IDLE:
            phase = "head"
        else:
            phase = "body" if self.conn.their_state is h11.SEND_BODY else ""
        if self._phase != (found := (phase, self._answered)):
            self._phase, self._since = found, now if self._phase[0] else self._since
        waited = now - self._since
        if self._answer_deadline is not None and now > self._answer_deadline:
            self.cut("answer")
        elif phase == "closing" and waited > limits.linger_seconds and self._answer_deadline is None:
            self.transport.abort()
        elif phase == "head" and waited > limits.head_seconds:
            self._refuse("request_timeout", "the head of the request did not come in time", reason="head")
        elif phase == "body" and waited > limits.body_seconds:
            self.cut("body")

    def _make_room(self) -> bool:
        """Whether a connection that waits was found, and cut off."""
        for other in self._shared.waiting:
            other.cut("evicted")
            return True
        return False

    def cut(self, reason: str) -> None:
        """End it at once."""
        metrics.HTTP_CUT.labels(reason).inc()
        self._shared.waiting.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    def _refuse(self, code: str, detail: str, *, reason: str) -> None:
        """Answer without a request, and close."""
        metrics.HTTP_CUT.labels(reason).inc()
        self._shared.waiting.pop(self, None)
        if self._idle():  # else it would land inside an answer
            self.transport.write(_raw_answer(code, detail))
        self.transport.close()


def _raw_answer(code: str, detail: str) -> bytes:
    kind = KINDS[code]
    body = json.dumps(Problem(title=kind.title, status=kind.status, code=code, detail=detail).model_dump()).encode()
    lines = [
        f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        "connection: close",
        *([f"retry-after: {RETRY_SECONDS}"] if code == "busy" else ()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
