"""The HTTP service on a real socket: in this process, or alone in one of its own."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


class IdleTail:
    """Ready, and nothing to do."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()

    def run(self, stop: threading.Event) -> None:
        stop.wait()


@contextmanager
def listening(app: Any, **limits: Any) -> Iterator[str]:
    """URL of a server of this application; `limits` as in ConnectionLimits."""
    from store.http.wire.places import ConnectionLimits
    from store.http.wire.server import Serve

    ready = threading.Event()
    serve = Serve(
        app,
        IdleTail(),
        host="127.0.0.1",
        port=0,
        limits=ConnectionLimits(**{"connections": 256, **limits}),
        on_ready=lambda _: ready.set(),
    )
    stop = threading.Event()
    thread = threading.Thread(target=serve.run, args=(stop,))
    thread.start()
    try:
        assert ready.wait(60)
        yield serve.url
    finally:
        stop.set()
        thread.join()


class Raw:
    """A connection that sends what it is told, byte by byte."""

    def __init__(self, url: str, data: bytes = b"", *, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect((parts.hostname, parts.port))
        self.send(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Whether it arrives is not asked: the other side may have gone."""
        try:
            self.socket.sendall(data)
        except OSError:
            return

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body, decoded if JSON, of the next answer; (0, {}, None) if the connection has ended."""
        with self.socket.makefile("rb") as file:
            try:
                status = file.readline().split()
                if not status:
                    return 0, {}, None
                headers = {}
                while line := file.readline().strip():
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = file.read(int(headers.get("content-length", 0)))
            except ConnectionError:
                return 0, {}, None
        return int(status[1]), headers, json.loads(body) if "json" in headers.get("content-type", "") else body

    def ended(self) -> bool:
        """Wait for the end of the connection, whatever comes before it."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        return True


def post(path: str, body: bytes = b"", *, length: int | None = None, token: str = "", chunked: bool = False) -> bytes:
    """A request, perhaps with less of a body than it says."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines.append(
        "transfer-encoding: chunked" if chunked else f"content-length: {len(body) if length is None else length}"
    )
    if token:
        lines.append(f"authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Alone:
    """The service in a process of its own. Options: users, files (RLIMIT_NOFILE), settings of serve."""

    def __init__(self, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.support.live_server", json.dumps(options)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line, self.process.communicate()[1]
        self.url, self.health_url = line
        """Of the service, and of what answers probes beside it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def memory_mb(self) -> float:
        """Resident."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(options: dict[str, Any]) -> None:
    from prometheus_client import CollectorRegistry

    from deploy.run.endpoint import application, listen
    from tests.support.serving import Serving

    if files := options.pop("files", 0):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    users = options.pop("users", 0)
    limits = options.pop("limits", {})
    serving = Serving(**options)
    for i in range(users):
        serving.add(f"u{i}")
    health = listen(application(CollectorRegistry(), lambda: True, lambda: 0.0), "127.0.0.1", 0)
    with listening(serving.app, **limits) as url:
        print(url, f"http://127.0.0.1:{health}", flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
