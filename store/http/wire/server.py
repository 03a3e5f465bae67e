"""The serve role: the HTTP service and the tail that feeds it, alive together or not at all."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from store.base import logs, open_files
from store.base.errors import AnchorstreamError
from store.base.exposure import netloc
from store.http.service import Readiness
from store.http.wire.connection import BoundedConnection
from store.http.wire.places import (
    ACCEPTED_AT_ONCE,
    DEFAULT_LIMITS,
    KEEP_ALIVE_SECONDS,
    LINGERING_CONNECTIONS,
    LOBBY_CONNECTIONS,
    ConnectionLimits,
    Connections,
)

GRACE_SECONDS = 3
"""How long requests under way may take to end when the role stops."""
RESERVED_FILES = 64 + ACCEPTED_AT_ONCE + LOBBY_CONNECTIONS + LINGERING_CONNECTIONS
"""Kept from connections: Kafka's sockets, snapshots, logs, and what was accepted but not yet counted."""
_POLL_SECONDS = 0.05
_SWITCH_SECONDS = 0.0005
"""Until a thread that works lets the event loop go on: with Python's 5 ms each of its calls waits so long."""
_QUEUED = 2048
"""Connections not yet accepted; the kernel may keep fewer."""
_SOCKET_BYTES = 256 << 10
"""Kept by the kernel for a connection, in each direction."""
log = logs.get(__name__)


class Tail(Protocol):
    """What feeds the indexes. `run` blocks until `stop` is set, and raises what it cannot go on with."""

    @property
    def ready(self) -> Readiness: ...

    def run(self, stop: threading.Event) -> None: ...


class Serve:
    """Binds its socket when made, so that `url` is known; `run` serves.

    Args:
        port: 0 = any free one.
        beside: what else must live as long as these; each blocks until `stop` is set, on a thread of its name.
        limits: of connections; fewer where the process may not open so many files.
        on_ready: called once, with the URL, when HTTP answers and the tail is ready.

    Raises:
        AnchorstreamError: the address cannot be used, or too few files may be open.
    """

    def __init__(
        self,
        app: FastAPI,
        tail: Tail,
        *,
        host: str,
        port: int,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        on_ready: Callable[[str], None] = lambda _: None,
        beside: Mapping[str, Callable[[threading.Event], None]] | None = None,
    ) -> None:
        self._tail = tail
        self._parts = {"tail": tail.run, "http": self._http, **(beside or {})}
        self._on_ready = on_ready
        may_open = open_files.raise_limit()
        self._socket = _bind(host, port)
        self.url = f"http://{netloc(host, self._socket.getsockname()[1])}"
        allowed = max(16, min(limits.connections, may_open - RESERVED_FILES))
        shared = Connections(replace(limits, connections=allowed))
        app.state.work.waits.fit(allowed)
        config = uvicorn.Config(
            app,
            http=partial(BoundedConnection, shared=shared),  # type: ignore[arg-type]
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            log_level="error",  # a warning per malformed request would let anybody fill the log
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._failures: list[BaseException] = []

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            AnchorstreamError, or whatever else ended the tail or the HTTP server: an HTTP service over a dead tail
            would answer ever older embeddings.
        """
        ending = threading.Event()
        threads = [
            threading.Thread(target=self._guard, args=(run, ending), name=name) for name, run in self._parts.items()
        ]
        for thread in threads:
            thread.start()
        announced = queued = False
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            while not stop.is_set() and all(thread.is_alive() for thread in threads):
                if self._server.started and not queued:
                    queued = True
                    self._socket.listen(_QUEUED)  # asyncio's own number is also how many it accepts in one turn
                if not announced and self._server.started and self._tail.ready.is_set():
                    announced = True
                    self._on_ready(self.url)
                stop.wait(_POLL_SECONDS)
        finally:
            self._server.should_exit = True
            asked = stop.is_set()
            ending.set()
            for thread in threads:
                thread.join()
            self._socket.close()
            sys.setswitchinterval(before)
        if self._failures:
            raise self._failures[0]
        if not asked:
            raise AnchorstreamError(
                "the HTTP server, the tail or what runs beside them ended by itself",
                action="see the log before this line",
                code="serve_ended",
            )

    def _http(self, _: threading.Event) -> None:
        self._server.run(sockets=[self._socket])

    def _guard(self, run: Callable[[threading.Event], None], ending: threading.Event) -> None:
        try:
            run(ending)
        except BaseException as exc:  # a thread's SystemExit (uvicorn's) must end the role as well
            log.error(logs.ROLE_FAILED, error=str(exc))
            self._failures.append(exc)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two processes share the port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for direction in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # inherited by connections; else up to 6 MB of each
                bound.setsockopt(socket.SOL_SOCKET, direction, _SOCKET_BYTES)
            bound.bind(address)
            bound.listen(_QUEUED)
        except OSError:
            bound.close()
            raise
    except OSError as exc:
        if (too_many := open_files.exhausted(exc)) is not None:
            raise too_many from exc
        if exc.errno == errno.EADDRINUSE:
            raise AnchorstreamError(
                f"port {port} of {host} is in use",
                action="stop what uses it, set serve.port to another, or to 0 for any free one",
                code="port_in_use",
            ) from exc
        raise AnchorstreamError(
            f"cannot listen on {host}:{port}: {exc}",
            action="set serve.host to an address of this machine (127.0.0.1 = only from here, 0.0.0.0 = from anywhere)",
            code="address_unusable",
        ) from exc
    return bound
