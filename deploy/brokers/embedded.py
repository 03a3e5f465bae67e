"""The embedded broker: librdkafka's mock cluster, which ships inside confluent-kafka, as a process of its own.

    python -m deploy.brokers.embedded --ready-file run/broker.json --topic events:4 --topic tokens:4

RAM only: it keeps the newest 5 MiB and 100 000 message sets of a partition and forgets everything when it ends, so each
start is a new identity. With `--keep DIR` what it was given on the `--kept` topics is written down there, and given to
the next one that starts on DIR (deploy/brokers/keeper.py). Topics can be added while it runs, through the `control`
address: one line of JSON in, one out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socketserver
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka

from deploy.brokers.keeper import GROUP, Keeper
from deploy.brokers.kept_log import KeptLog
from store.base import logs
from store.base.errors import AnchorstreamError, BrokerError, TopicError
from store.base.files import write_json
from stream.kafka.client import Connection
from stream.topics import TopicSpec

REBALANCE_DELAY_MS = 100
"""How long a group waits for more members before its first assignment; Kafka's default is 3 s."""
PARENT_CHECK_SECONDS = 0.2
_TOPIC_ALREADY_EXISTS = 36
log = logs.get(__name__)


def library() -> ctypes.CDLL:
    """librdkafka as bundled with confluent-kafka.

    Raises:
        BrokerError: this installation has no bundled library, or one without the mock cluster.
    """
    package = Path(confluent_kafka.__file__).parent
    # manylinux and Windows wheels put libraries beside the package, macOS wheels inside
    places = [package.parent / "confluent_kafka.libs", package / ".dylibs"]
    found = [path for place in places for path in sorted(place.glob("*rdkafka*"))]
    # built against a system librdkafka: the loader finds it by name
    for name in [*map(str, found), "librdkafka.so.1", "librdkafka.1.dylib"]:
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(lib, "rd_kafka_mock_cluster_new"):
            return lib
    raise BrokerError(
        "confluent-kafka is installed without librdkafka's mock cluster",
        action='install confluent-kafka from its wheel, or set kafka.bootstrap_servers = "local"',
        code="broker_unavailable",
    )


class MockCluster:
    """One mock broker inside this process; it lives until the process ends."""

    def __init__(self, *, rebalance_delay_ms: int = REBALANCE_DELAY_MS) -> None:
        self._lib = library()
        error = ctypes.create_string_buffer(512)
        conf = self._call("rd_kafka_conf_new", ctypes.c_void_p)
        # this client only carries the mock; it has nowhere to connect to and says so
        self._call("rd_kafka_conf_set", ctypes.c_int, _pointer(conf), b"log_level", b"3", error, ctypes.c_size_t(512))
        client = self._call("rd_kafka_new", ctypes.c_void_p, 0, _pointer(conf), error, ctypes.c_size_t(len(error)))
        if not client:
            raise BrokerError(f"librdkafka: {error.value.decode()}", action="report this", code="broker_unavailable")
        self._cluster = _pointer(
            self._call("rd_kafka_mock_cluster_new", ctypes.c_void_p, _pointer(client), ctypes.c_int(1))
        )
        self._call(
            "rd_kafka_mock_group_initial_rebalance_delay_ms", None, self._cluster, ctypes.c_int32(rebalance_delay_ms)
        )

    @property
    def bootstrap(self) -> str:
        """host:port."""
        return bytes(self._call("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, self._cluster)).decode()

    def create_topic(self, name: str, partitions: int) -> bool:
        """Create a topic; False if it exists (its partition count is not looked at).

        Raises:
            TopicError: refused.
        """
        if not name or partitions < 1:  # librdkafka would take it
            raise TopicError(f"embedded broker: topic {name!r} cannot have {partitions} partitions")
        code = self._call(
            "rd_kafka_mock_topic_create",
            ctypes.c_int,
            self._cluster,
            name.encode(),
            ctypes.c_int(partitions),
            ctypes.c_int(1),
        )
        if code not in (0, _TOPIC_ALREADY_EXISTS):
            raise TopicError(f"embedded broker: topic {name} with {partitions} partitions: error {code}")
        return bool(code == 0)

    def _call(self, name: str, result: Any, *args: Any) -> Any:
        function = getattr(self._lib, name)
        function.restype = result
        return function(*args)


def _pointer(value: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


class _Control(socketserver.StreamRequestHandler):
    """`{"create": {name: partitions, …}}` → `{"created": [name, …]}` or `{"error": text}`."""

    def handle(self) -> None:
        cluster: MockCluster = self.server.cluster  # type: ignore[attr-defined]
        for line in self.rfile:
            try:
                wanted = json.loads(line)["create"]
                answer: dict[str, Any] = {
                    "created": [name for name, count in wanted.items() if cluster.create_topic(name, int(count))]
                }
            except (ValueError, KeyError, TypeError, AttributeError, TopicError) as exc:
                answer = {"error": str(exc)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")
            self.wfile.flush()


class _ControlServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, cluster: MockCluster) -> None:
        super().__init__(("127.0.0.1", 0), _Control)
        self.cluster = cluster


class Keep(NamedTuple):
    """directory: where. topics: which. readers: groups that must have read what is given back before there is more."""

    directory: Path
    topics: tuple[str, ...]
    readers: tuple[str, ...]


def serve(
    ready_file: Path,
    topics: Mapping[str, int],
    parent_gone: Callable[[], bool],
    stop: threading.Event,
    keep: Keep | None = None,
) -> None:
    """Run the broker until `stop` is set or the parent is gone; `ready_file` appears once it takes connections.

    Raises:
        StateError: what was kept cannot be read. BrokerError: what comes cannot be kept.
    """
    kept = KeptLog(keep.directory) if keep is not None else None
    cluster = MockCluster()
    for name, partitions in topics.items():
        cluster.create_topic(name, partitions)
    with _ControlServer(cluster) as control:
        threading.Thread(target=control.serve_forever, daemon=True).start()
        host, port = control.server_address[:2]
        state = {
            "kind": "embedded",
            "bootstrap": cluster.bootstrap,
            "identity": f"embedded:{uuid.uuid4().hex}",
            "pid": os.getpid(),
            "control": f"{host!s}:{port}",
        }
        keeper = None
        if keep is not None and kept is not None:
            state |= {"history": kept.history, "keeper": GROUP, "restoring": kept.count}
            specs = {
                name: TopicSpec(name, topics[name], readers=(*keep.readers, GROUP))
                for name in keep.topics
                if name in topics
            }
            restored = partial(write_json, ready_file, state | {"restoring": 0})
            keeper = Keeper(Connection(cluster.bootstrap, embedded=True), kept, specs, restored)
        write_json(ready_file, state)
        log.info(logs.BROKER_STARTED, **state, topics=len(topics))
        if keeper is not None:
            keeper.start()
        while not stop.wait(PARENT_CHECK_SECONDS):
            if parent_gone() or (keeper is not None and keeper.failed):
                break
        if keeper is not None:
            keeper.stop()
        control.shutdown()
    ready_file.unlink(missing_ok=True)
    log.info(logs.BROKER_STOPPED, kind="embedded")
    if keeper is not None and keeper.failed:
        why = keeper.failure
        action = why.action if isinstance(why, AnchorstreamError) else "see its log"
        raise BrokerError(f"the embedded broker cannot keep what it is given: {why and why.args[0]}", action=action)


def main(argv: list[str] | None = None) -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser(prog="python -m deploy.brokers.embedded", description=__doc__)
    parser.add_argument("--ready-file", type=Path, required=True, help="written, atomically, once the broker is up")
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write down what comes, and begin with what was kept there"
    )
    parser.add_argument("--kept", action="append", default=[], metavar="TOPIC")
    parser.add_argument("--reader", action="append", default=[], metavar="GROUP", help="of the kept topics")
    parser.add_argument("--parent", type=int, help="end when this process, our parent, does")
    args = parser.parse_args(argv)
    logs.configure("broker")
    logs.catch_all()
    topics = {name: int(count) for name, _, count in (topic.rpartition(":") for topic in args.topic)}
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C reaches the whole terminal: under a launcher that drains first, the broker goes last, by SIGTERM
    for number in (signal.SIGINT, signal.SIGHUP):  # the latter: the terminal was closed
        signal.signal(number, signal.SIG_IGN if args.parent else lambda *_: stop.set())
    keep = Keep(args.keep, tuple(args.kept), tuple(args.reader)) if args.keep else None
    try:
        serve(args.ready_file, topics, _watch(args.parent), stop, keep)
    except Exception as exc:
        return logs.last_words(exc)
    return 0


def _watch(parent: int | None) -> Callable[[], bool]:
    """Whether the parent is gone: by its pid, and by the end of the pipe it holds.

    Both, because each fails alone: a pid is reused, and a pipe stays open in the parent's other children. Not
    prctl(PR_SET_PDEATHSIG): that fires when the *thread* that started us ends.
    """
    if parent is None:
        return lambda: False
    closed = threading.Event()

    def drain() -> None:
        while os.read(0, 4096):
            pass
        closed.set()

    threading.Thread(target=drain, daemon=True).start()
    return lambda: closed.is_set() or os.getppid() != parent


if __name__ == "__main__":
    sys.exit(main())
