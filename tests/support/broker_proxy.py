"""A network that can fail, between one client process and a broker: cut, healed, what was under way delivered late."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stream.kafka.client import Connection

PRODUCE, FETCH, METADATA, OFFSET_COMMIT, INIT_PRODUCER_ID, END_TXN, TXN_OFFSET_COMMIT = 0, 1, 3, 8, 22, 26, 28
"""API keys of Kafka's protocol."""
_HOST = "127.0.0.1"


def port_of(connection: Connection) -> int:
    """Of the one broker."""
    return int(connection.bootstrap.rsplit(":", 1)[1])


class Request(NamedTuple):
    """One request on its way. frame: with its length in front."""

    api: int
    frame: bytes


class Held:
    """A request that a cut began with. reached: the proxy has it; answered: it was delivered, and the broker spoke."""

    def __init__(self, wanted: Callable[[Request], bool], skip: int) -> None:
        self._wanted = wanted
        self._skip = skip
        self.reached = threading.Event()
        self.answered = threading.Event()
        self.connection: object = None
        self.correlation = -1

    def wants(self, request: Request) -> bool:
        """Whether the cut begins here."""
        if self.reached.is_set() or not self._wanted(request):
            return False
        self._skip -= 1
        return self._skip < 0


class BrokerProxy:
    """Stands before a broker at 127.0.0.1; its clients are told no other address, so all they send passes here.

    While it is cut, connections stay up and nothing passes in either direction. Requests that were read from a client
    are delivered when it heals, also if the client has gone. Threads end with `close`.
    """

    def __init__(self, broker_port: Callable[[], int]) -> None:
        """broker_port: asked for each connection, since a broker may come back at another one."""
        self._broker_port = broker_port
        self._open = threading.Event()
        self._open.set()
        self._held: Held | None = None
        self._nameless = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((_HOST, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.bootstrap = f"{_HOST}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes from now on."""
        self._open.clear()

    def cut_at(self, api: int, containing: bytes = b"", *, skip: int = 0) -> Held:
        """Cut at a request of this kind that contains these bytes, a topic's name say; it is held too.

        Args:
            skip: so many of them pass before.
        """
        held = self._held = Held(lambda request: request.api == api and containing in request.frame, skip)
        return held

    def heal(self) -> None:
        """Deliver what is held; everything passes."""
        self._held = None if self._held is None or not self._held.reached.is_set() else self._held
        self._open.set()

    def hide(self) -> None:
        """Metadata names no broker from now on, as a Kafka that is alone does for some milliseconds of its stopping."""
        self._nameless.set()

    def show(self) -> None:
        """It does again; every connection breaks, as at the end of a Kafka."""
        self._nameless.clear()
        self.drop()

    @contextlib.contextmanager
    def nameless(self) -> Iterator[None]:
        """Hidden meanwhile."""
        self.hide()
        try:
            yield
        finally:
            self.show()

    def drop(self) -> None:
        """Break every connection; what is held is lost. New ones are taken once it is healed."""
        with self._lock:
            for end in self._sockets:
                _shut(end)

    def close(self) -> None:
        """Cut every connection for good."""
        self._listener.close()
        self._open.set()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.wait()
        try:
            port = self._broker_port()
            broker = socket.create_connection((_HOST, port))
        except OSError:  # it restarts
            client.close()
            return
        with self._lock:
            self._sockets |= {client, broker}
        for end in (client, broker):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        apis: dict[int, tuple[int, int]] = {}
        back = threading.Thread(target=self._responses, args=(broker, client, apis, port), daemon=True)
        back.start()
        self._requests(client, broker, apis)
        back.join()
        with self._lock:
            self._sockets -= {client, broker}
        client.close()
        broker.close()

    def _requests(self, client: socket.socket, broker: socket.socket, apis: dict[int, tuple[int, int]]) -> None:
        with contextlib.suppress(OSError):
            while (frame := _frame(client)) is not None:
                api, version, correlation = struct.unpack_from(">hhi", frame, 4)
                apis[correlation] = api, version
                held = self._held
                if held and held.wants(Request(api, frame)):
                    held.connection, held.correlation = broker, correlation
                    self._open.clear()
                    held.reached.set()
                self._open.wait()
                broker.sendall(frame)
        self._open.wait()
        _shut(broker)

    def _responses(
        self, broker: socket.socket, client: socket.socket, apis: dict[int, tuple[int, int]], port: int
    ) -> None:
        advertised = _HOST.encode() + struct.pack(">i", port)
        ours = _HOST.encode() + struct.pack(">i", self.port)
        gone = False
        with contextlib.suppress(OSError):
            while (frame := _frame(broker)) is not None:
                self._open.wait()
                (correlation,) = struct.unpack_from(">i", frame, 4)
                api, version = apis.pop(correlation, (-1, 0))
                if api != FETCH:
                    frame = frame.replace(advertised, ours)
                if api == METADATA and self._nameless.is_set():
                    frame = without_brokers(frame, version)
                if not gone:
                    try:
                        client.sendall(frame)
                    except OSError:  # what it had sent goes on to the broker
                        gone = True
                held = self._held
                if held and held.connection is broker and held.correlation == correlation:
                    held.answered.set()
        self._open.wait()
        _shut(client)


def without_brokers(frame: bytes, version: int) -> bytes:
    """A Metadata response, of 9 or more, that names no broker.

    frame: length, correlation, tags of the header (none), throttle time, brokers (their count + 1; each: id, host,
    port, rack, tags), the rest.
    """
    assert version >= 9, version
    at = begin = 4 + 4 + 1 + 4
    count, at = _varint(frame, at)
    for _ in range(count - 1):
        at += 4
        size, at = _varint(frame, at)
        at += size - 1 + 4
        size, at = _varint(frame, at)
        at += max(0, size - 1)
        tags, at = _varint(frame, at)
        assert not tags
    body = frame[4:begin] + b"\x01" + frame[at:]
    return struct.pack(">i", len(body)) + body


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """An unsigned one, and where the next field begins."""
    value = shift = 0
    while True:
        value |= (frame[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not frame[at - 1] & 0x80:
            return value, at


def _frame(end: socket.socket) -> bytes | None:
    """One request or response with its length; None at the end."""
    head = _exactly(end, 4)
    body = None if head is None else _exactly(end, struct.unpack(">i", head)[0])
    return None if head is None or body is None else head + body


def _exactly(end: socket.socket, size: int) -> bytes | None:
    out = bytearray()
    while len(out) < size:
        if not (part := end.recv(size - len(out))):
            return None
        out += part
    return bytes(out)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
