"""HTTP of each role for Prometheus and for probes; and the file by which Prometheus finds it.

serve has both at its own port as well, where they wait among all other requests; here they do not.

/livez     200, or 503 once the role's loop has not come round for SILENT_SECONDS
/readyz    200 once the role works, 503 before
elsewhere  its metrics
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from deploy.run.ready import of_another
from store.base import open_files
from store.base.errors import AnchorstreamError
from store.base.files import write_atomic
from store.base.pulse import SILENT_SECONDS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def application(
    registry: CollectorRegistry, ready: Callable[[], bool], silent_seconds: Callable[[], float]
) -> WSGIApplication:
    """What the endpoint answers. silent_seconds: since the role's loop last came round."""
    exported: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/livez":
                silent = silent_seconds()
                return _say(silent < SILENT_SECONDS, f"the loop last came round {silent:.0f} s ago", start_response)
            case "/readyz":
                works = ready()
                return _say(works, "ready" if works else "starting", start_response)
        return exported(environ, start_response)

    return answer


def _say(good: bool, text: str, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


def listen(app: WSGIApplication, host: str, port: int) -> int:
    """Answer on daemon threads until the process ends. port: 0 = any free one. Returns the port.

    Raises:
        AnchorstreamError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = make_server(host, port, app, _server_of(family), _Silent)
    except OSError as exc:
        if (too_many := open_files.exhausted(exc)) is not None:
            raise too_many from exc
        raise AnchorstreamError(
            f"cannot listen on {host}:{port} for metrics: {exc.strerror or exc}",
            action="set metrics.port to another, or to 0 for any free one; metrics.host to an address of this machine",
            code="metrics_unavailable",
        ) from exc
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port


def _server_of(family: int) -> type[WSGIServer]:
    from socketserver import ThreadingMixIn

    class Server(ThreadingMixIn, WSGIServer):
        address_family = family
        daemon_threads = True

        def server_bind(self) -> None:
            # as WSGIServer's, without the reverse look-up of the host's name, which may take seconds
            # a role that was killed comes back while connections of its last life are still in TIME_WAIT
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            socket.socket.bind(self.socket, self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
            self.setup_environ()

    return Server


class _Silent(WSGIRequestHandler):
    timeout = 30.0

    def log_message(self, *_: Any) -> None:
        """Scrapes and probes are not worth a line."""


def target_path(data_dir: Path, role: str, instance: str) -> Path:
    """The file of one process, for Prometheus' `file_sd_configs`: `<data_dir>/run/scrape/*.json`."""
    return data_dir / "run" / "scrape" / f"{role}-{instance}.json"


def write_target(data_dir: Path, role: str, instance: str, address: str) -> None:
    """Say where this process exports (`host:port`). Its series keep their name over restarts."""
    # a label that begins so is of no series
    labels = {"role": role, "instance": f"{role}-{instance}", "__meta_pid": str(os.getpid())}
    text = json.dumps([{"targets": [address], "labels": labels}]) + "\n"
    write_atomic(target_path(data_dir, role, instance), text)


def remove_target(data_dir: Path, role: str, instance: str) -> None:
    """Take back what `write_target` said. What another living process said stays."""
    path = target_path(data_dir, role, instance)
    try:
        pid = int(json.loads(path.read_text(encoding="utf-8"))[0]["labels"]["__meta_pid"])
    except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
        pid = 0
    if not of_another(pid):
        path.unlink(missing_ok=True)


def clear_targets(data_dir: Path) -> None:
    """Forget the processes of an earlier `up`."""
    for path in target_path(data_dir, "", "").parent.glob("*.json"):
        path.unlink(missing_ok=True)
