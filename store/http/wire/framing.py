"""Requests cut out of the bytes: h11, stricter, and looking at no more than somebody asked for.

RFC 9112 §6.3: a request with two lengths is refused, since what stands before us may have believed the other one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import h11

HEAD_BYTES = 16 << 10
"""Of a request's first line and headers, and of a chunked body's trailer."""
MAX_CHUNKS = 4096
"""Of one body; each costs as much as a small header, whatever it carries."""
CHUNKS_A_TURN = 128
"""Looked at before the event loop does something else: 2 ms."""
_BLANK_LINES = re.compile(rb"(?:\r?\n)*")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


class Framing(h11.Connection):
    """The server's side.

    Args:
        held: whether the next request has to wait.
    """

    def __init__(self, held: Callable[[], bool]) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES - 1)
        self._held = held
        self._chunked = False
        self._wanted = False
        self._chunks = self._this_turn = 0
        self.fault = ""
        """What was wrong, in words; "" where h11 found it."""

    @property
    def paused(self) -> bool:
        """There may be more than is looked at now: until `want`, `turn`, or what holds the next request has gone."""
        if self.their_state is h11.IDLE:
            return self._held()
        tired = not self._wanted or self._this_turn >= CHUNKS_A_TURN
        return self.their_state is h11.SEND_BODY and self._chunked and tired

    @property
    def tired(self) -> bool:
        """Paused only until the next turn of the event loop."""
        return self.paused and self._wanted and self.their_state is h11.SEND_BODY

    def want(self) -> bool:
        """The body is asked for: a chunked one is looked at from now on. Whether it had been waiting for that."""
        waited, self._wanted = self.paused and not self._wanted, True
        return waited

    def turn(self) -> None:
        """Another turn of the event loop."""
        self._this_turn = 0

    def room(self) -> int:
        """Bytes that may be handed in at once, so that a bound on what is incomplete is one on what is complete."""
        return HEAD_BYTES - len(self.trailing_data[0])

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's. Raises h11.RemoteProtocolError: what came is no HTTP, or too much of it."""
        self.fault = ""
        # what comes behind a last request is no matter
        if self.paused or self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        if self.their_state is h11.IDLE and not self._pass_blank_lines():
            return h11.NEED_DATA
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as exc:
            if exc.error_status_hint == 431:
                self.fault = f"a head, and what follows the last chunk, has at most {HEAD_BYTES} bytes"
            raise
        if isinstance(event, h11.Request):
            self._begin(event)
            event = _in_origin_form(event)
        elif isinstance(event, h11.Data) and self._chunked and event.chunk_start:
            self._chunks += 1
            self._this_turn += 1
            if self._chunks > MAX_CHUNKS:
                self._refuse(f"a body has at most {MAX_CHUNKS} chunks")
        return event

    def _begin(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        self._chunked, self._wanted, self._chunks = b"transfer-encoding" in names, False, 0
        if self._chunked and b"content-length" in names:
            self._refuse("Content-Length and Transfer-Encoding exclude each other")
        if request.http_version not in (b"1.0", b"1.1"):
            self._refuse(f"HTTP/{request.http_version.decode()} is not spoken here; HTTP/1.1 is")
        if self._chunked and request.http_version != b"1.1":
            self._refuse("HTTP/1.0 has no Transfer-Encoding")

    def _pass_blank_lines(self) -> bool:
        """RFC 9112 §2.2: those before a request are no part of it. False = perhaps one more has half come."""
        data, ended = self.trailing_data
        blank = _BLANK_LINES.match(data)
        if blank is not None and blank.end():
            self._receive_buffer.maybe_extract_at_most(blank.end())
            data = data[blank.end() :]
        return data != b"\r" or ended

    def _refuse(self, fault: str) -> None:
        self.fault = fault
        raise h11.RemoteProtocolError(fault)


def _in_origin_form(request: h11.Request) -> h11.Request:
    """RFC 9112 §3.2.2: a target may name the server too, as proxies' clients do; it then counts instead of Host."""
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute is None:
        return request
    authority, rest = absolute.groups()
    target = rest if rest.startswith(b"/") else b"/" + rest
    headers = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method,
        headers=[(b"host", authority), *headers],
        target=target,
        http_version=request.http_version,
    )
