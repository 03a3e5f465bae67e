"""A connection of the HTTP service, bounded: what is looked at, what is kept, and how slow a client may be.

uvicorn bounds an idle connection's time; here is what it leaves open. A client that does not send its head or body in
time, or does not take its answer, is cut off. A request is looked at when its turn has come: a chunked body once its
head was judged, the next request once the answer before it is on its way. Who is refused can read why.
"""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from store.base import metrics
from store.http.problems import KINDS, MEDIA_TYPE, RETRY_SECONDS, Problem, problem
from store.http.wire.framing import Framing
from store.http.wire.places import Connections

_CHECK_SECONDS = 0.5
_ANSWER_BYTES_PER_SECOND = 64 << 10
_PROBE_SECONDS = 0.1
_PROBE_AGAIN_SECONDS = 1.0
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class _LingeringTransport:
    """A transport whose `close` first swallows what the client is still sending.

    Closed with bytes unread, a socket answers with a reset, which may overtake the answer that says why.
    """

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._connection.lingers or self._transport.is_closing()

    def close(self) -> None:
        if not self._connection.linger():
            self._transport.close()


class BoundedConnection(H11Protocol):
    """uvicorn's protocol within limits; made by the server for each connection."""

    conn: Framing

    def __init__(self, *args: Any, shared: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = Framing(lambda: self.flow.write_paused)
        self._inner, self.app = self.app, self._answer_to
        self._shared = shared
        self._raw: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._probed = False
        self._phase: tuple[str, int] = ("", 0)
        self._since = 0.0
        self._answered = 0
        self._unseen = bytearray()
        self._more_turns = False
        self._being_sent = 0
        self._stuck_since = 0.0
        self._answer_deadline: float | None = None
        self._ended = False
        self.heard = False
        self.lingers = False

    # ---- what happens ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]
        self._raw = transport
        self._since = self.loop.time()
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        if self._shared.enter(self):
            self._note()
            self.loop.call_soon(self.loop.call_soon, self._hear)  # reading begins in the next turn
        else:
            self._refuse("busy", "too many connections: ask again in a moment", reason="full")
        metrics.HTTP_CONNECTIONS.set(len(self._shared))

    def _hear(self) -> None:
        self.heard = True
        self._shared.settle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.leave(self)
        for timer in (self._timer, self._probe):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        metrics.HTTP_CONNECTIONS.set(len(self._shared))

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._unseen += data
            self._look()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has said everything; whether it still listens is not known. True: it is not closed here."""
        again, self._ended = self._ended, True
        if self.lingers and self._raw is not None:
            self._raw.close()
        elif not again:
            self._look()
            self._probe = self.loop.call_later(_PROBE_SECONDS, self._ask_whether_anybody_listens)
        return True

    def on_response_complete(self) -> None:
        self._answered += 1
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        now, left = self.loop.time(), self.transport.get_write_buffer_size()
        self._stuck_since = now
        self._answer_deadline = now + self._shared.limits.answer_seconds + left / _ANSWER_BYTES_PER_SECOND

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_deadline = None
        self._count()
        self._say_no_more()
        self._look()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the answer is still being taken
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self.lingers and self._raw is not None:
            self._raw.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._refuse("http_invalid", self.conn.fault or msg, reason="malformed")

    # ---- what is looked at -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Hand on what has come, as far as its turn has come."""
        while not self.transport.is_closing():
            self.handle_events()
            if not self._unseen or self.conn.paused or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                break
            room = self.conn.room()
            self.conn.receive_data(bytes(self._unseen[:room]))
            del self._unseen[:room]
        if self.transport.is_closing():
            self._unseen.clear()
            self._note()
            return
        if self.conn.tired and not self._more_turns:
            self._more_turns = True
            self.loop.call_soon(self._look_again)
        if self._unseen:
            self.flow.pause_reading()
        elif not self._ended and (self._now() == "head" or (self._now() == "body" and not self.cycle.body)):
            self.flow.resume_reading()
        self._note()
        if self._ended:
            self._end()

    def _look_again(self) -> None:
        self._more_turns = False
        self.conn.turn()
        self._look()

    def _end(self) -> None:
        """The client sends no more. What it has sent whole is answered."""
        if self.conn.paused or self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY or self._idle():
            self.transport.close()

    async def _answer_to(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, between bounds."""
        head: Message | None = None

        async def wanted() -> Message:
            if self.conn.want():
                self._look()
            return await receive()

        async def kept(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message  # until it is known how long the answer is
                return
            if head is not None:
                size = len(message.get("body", b""))
                if self._shared.has_room_for(size):
                    self._being_sent = size
                    self._count()
                    await send(head)
                else:
                    metrics.HTTP_BUSY.labels("answer").inc()
                    refusal = problem("busy", "too many answers have not been taken yet: ask again in a moment")
                    await send({**head, "status": refusal.status_code, "headers": refusal.raw_headers})
                    message = {**message, "body": refusal.body}
                head = None
            try:
                await send(message)
            finally:
                self._being_sent = 0
                self._count()

        if self._shared.may_ask(self, scope["path"]):
            await self._inner(scope, wanted, kept)
            return
        metrics.HTTP_CUT.labels("full").inc()
        refusal = problem("busy", "too many connections: ask again in a moment", headers={"connection": "close"})
        await refusal(scope, receive, send)

    # ---- what is too much ------------------------------------------------------------------------------------------

    @property
    def stuck_seconds(self) -> float:
        """Since the answer is not taken; 0 = it is."""
        return 0.0 if self._answer_deadline is None else self.loop.time() - self._stuck_since

    def linger(self, *, refused: bool = False) -> bool:
        """The connection is to be closed: whether that is put off, because the client may still be sending."""
        if self.lingers:
            return True
        sending = refused or self.conn.their_state is not h11.IDLE
        if not sending or self._ended or self._raw is None or self._raw.is_closing():
            return False
        self.lingers = True
        self._unset_keepalive_if_required()
        self._raw.resume_reading()
        if refused:
            self._shared.linger(self)
        self._say_no_more()
        return True

    def _say_no_more(self) -> None:
        """It lingers: end our direction once the answer is out."""
        if not self.lingers or self._raw is None or self._raw.is_closing() or self._raw.get_write_buffer_size():
            return
        self._shared.linger(self)
        try:
            if self._raw.can_write_eof():
                self._raw.write_eof()
        except OSError:  # the client has reset it
            self._raw.abort()

    def cut(self, reason: str) -> None:
        """End it at once."""
        metrics.HTTP_CUT.labels(reason).inc()
        self._shared.leave(self)
        self.connections.discard(self)
        self.transport.abort()

    def _idle(self) -> bool:
        """No request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _now(self) -> str:
        """Whose turn it is: the client's to send a head or a body, or to take an answer; nobody's; "" = ours."""
        if self.flow.write_paused:
            return "answer"
        if self.transport.is_closing():
            return "closing"
        if self.conn.their_state is h11.SEND_BODY and not self.conn.paused:
            return "body"
        return "head" if self._idle() else ""

    def _note(self) -> None:
        phase = self._now()
        anew = self._phase != (phase, self._answered)
        if anew:
            self._phase, self._since = (phase, self._answered), self.loop.time()
        self._shared.waits(self, phase in ("head", "body", "answer"), anew=anew)

    def _count(self) -> None:
        self._shared.keep(self, self._being_sent + self.transport.get_write_buffer_size())
        self._note()

    def _check(self) -> None:
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        self._count()
        self._say_no_more()
        now, limits, phase = self.loop.time(), self._shared.limits, self._phase[0]
        waited = now - self._since
        if self._answer_deadline is not None and now > self._answer_deadline:
            self.cut("answer")
        elif phase == "closing" and waited > limits.linger_seconds and self._answer_deadline is None:
            self.transport.abort()
        elif phase == "head" and waited > limits.head_seconds:
            self._refuse("request_timeout", "the head of the request did not come in time", reason="head")
        elif phase == "body" and waited > limits.body_seconds:
            self.cut("body")

    def _ask_whether_anybody_listens(self) -> None:
        """Who has closed the connection looks like who has said everything, until something is sent."""
        if self._raw is None or self._raw.is_closing():
            return
        if self._raw.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._raw.abort()  # it was: what was sent came back as a reset
            return
        at_work = not self._idle() and not self.cycle.response_started
        self._probed = not self._probed and at_work and self.scope["http_version"] == "1.1"
        if self._probed:
            self._raw.write(_INTERIM)
        seconds = _PROBE_SECONDS if self._probed else _PROBE_AGAIN_SECONDS
        self._probe = self.loop.call_later(seconds, self._ask_whether_anybody_listens)

    def _refuse(self, code: str, detail: str, *, reason: str) -> None:
        """Answer without a request, and close."""
        metrics.HTTP_CUT.labels(reason).inc()
        if self._idle() or not self.cycle.response_started:  # else it would land inside an answer
            self.transport.write(_raw_answer(code, detail))
        if not self._idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self.linger(refused=True):
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
