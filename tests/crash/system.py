"""The whole system as separate processes on one broker, to be hurt and then compared with tests/crash/reference.py."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition

from deploy.operate.service_client import Service, running_url
from deploy.run.launcher import Launcher
from deploy.run.ready import is_ready
from deploy.run.spawn import Spawn
from deploy.run.supervision import RestartPolicy
from deploy.settings.config import Settings, load
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from store.base.errors import BrokerError
from store.base.files import write_json
from store.buffer.view import BufferView, find
from store.window.silence import floor_hour
from store.window.user_window import UserWindow
from stream.account.reader import AccountReader
from stream.account.report import AccountReport
from stream.commit_metadata import read_horizon
from stream.lag.reader import LagReader, plan
from stream.topics import Topics
from tests.crash import invariants
from tests.crash.history import History
from tests.crash.networks import Networks
from tests.crash.reference import Reference, Sent
from tests.crash.verdict import Verdict, compare_account, compare_letters, compare_served, compare_windows
from tests.support.behaviour import CONFIG, DAY_MS, NOW, Message, behaviour
from tests.support.broker_proxy import port_of
from tests.support.offsets import committed
from tests.support.ports import lasting_port

SEND_SECONDS = 400
"""For how long librdkafka tries: a broker that restarts on a busy machine takes its time."""
DRAIN_SECONDS = 400.0
RESTORE_SECONDS = 180.0
ACCOUNT_SECONDS = 90.0
CLOCK_BEGINS = 64
"""Messages per partition after which a stream certainly has a time."""
TIMEOUT = 1500
"""Of a whole test, in seconds: above what the deadlines in it add up to."""


class System:
    """Launcher, producer and judge. Use as a context manager.

    Args:
        spawn: starts a role.
        further: settings behind those of CONFIG, as TOML; at first of `[model]`.
    """

    def __init__(
        self,
        folder: Path,
        spawn: Spawn,
        *,
        bootstrap: str = "local",
        partitions: int = 2,
        further: str = "",
        **roles: int,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "anchorstream.toml"
        text = CONFIG.format(bootstrap=bootstrap, partitions=partitions, data_dir=folder / "data")
        config.write_text(text + further)
        self.settings: Settings = load(config)
        self.topics = Topics(self.settings.kafka)
        self.sent: list[Sent] = []
        self.sources = {m.topic: m.topic for m in self.settings.modalities.values()}
        """{raw topic: what it is called in `covers` as of now}."""
        wanted = {"ingest": 1, "processor": 1, "worker": 1, "serve": 1} | roles
        self.names = {f"{role}-{i}" for role, n in wanted.items() for i in range(n)}
        policy = RestartPolicy(first_delay_seconds=0.1, max_delay_seconds=1.0, give_up_after=10)
        self.networks = Networks(lambda: port_of(self.launcher.connection))
        self.launcher = Launcher(self.settings, roles=wanted, policy=policy, spawn=self.networks.behind(spawn))
        self.history = History(self.topics, self.settings.scenarios)
        self.counts = invariants.Counts()
        self.reference: Reference | None = None
        self._taken = 0
        self._streams = itertools.count()
        self._started: Counter[str] = Counter()
        self._gate = threading.Lock()
        """Who holds it may produce, or be sure that nobody does."""
        self._producer: Any = None
        self._lag: tuple[str, LagReader] | None = None
        self.failed = False

    def __enter__(self) -> System:
        # the broker's ports must be there for it when it comes back, whatever else runs on this machine
        ports = {"port": lasting_port(), "controller_port": lasting_port()}
        write_json(self.settings.store.data_dir / "kafka" / "settings.json", ports)
        self.launcher.__enter__()
        self.launcher.wait_ready()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._lag is not None:
            self._lag[1].close()
        self.networks.heal()
        self.launcher.__exit__(*error)
        self.networks.close()

    @contextlib.contextmanager
    def judged(self, texts: TextEncoder, users: UserEncoder) -> Iterator[None]:
        """What is done inside leaves buffer and embeddings as they must be; on failure the roles' logs are shown."""
        with self.telling():
            yield
            self.wait_drained()
            self.check(texts, users)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """On failure the roles' last log lines are printed."""
        try:
            yield
        except BaseException:
            self.failed = True
            for log in sorted(self.launcher.log_dir.glob("*.log")):
                print(f"---- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))  # noqa: T201
            raise

    def stream(
        self, seed: int, *, users: int = 16, events: int = 600, days: int = 2, unnamed: float = 0.0, passers_by: int = 0
    ) -> list[Message]:
        """Messages that are all new to this system, and `days` later than those of the stream before."""
        number = next(self._streams)
        made = behaviour(
            seed,
            users=users,
            events=events,
            unnamed=unnamed,
            passers_by=passers_by,
            start_ms=NOW + number * days * DAY_MS,
            label=f"s{number}e",
        )
        return made.messages

    def send(self, messages: Sequence[Message], *, per_second: float = 0) -> None:
        """Produce to the raw topics, in order; every message arrives, also across a broker restart."""
        started = time.monotonic()
        failed: list[str] = []

        def delivered(message: Message, source: str) -> Any:
            def report(error: Any, record: Any) -> None:
                if error is not None:
                    failed.append(str(error))
                else:
                    assert record.offset() >= 0
                    self.sent.append(Sent(message, source, record.partition(), record.offset()))

            return report

        self._producer = None
        for i, message in enumerate(messages):
            with self._gate:
                if message.fate == "ts_too_old" and self._has_no_clock(message.topic):
                    continue
                if self._producer is None:
                    self._producer = self.launcher.connection.producer(**{"message.timeout.ms": SEND_SECONDS * 1000})
                on_delivery = delivered(message, self.sources[message.topic])
                self._producer.produce(message.topic, message.value, message.key, on_delivery=on_delivery)
                self._producer.poll(0)
                self._started[self.sources[message.topic]] += 1
            if per_second:
                time.sleep(max(0.0, started + i / per_second - time.monotonic()))
        with self._gate:
            self._flush()
        assert not failed, failed[:3]

    def _has_no_clock(self, topic: str) -> bool:
        """Whether one time far away might begin a partition's clock: one that came alone would, after three seconds."""
        return self._started[self.sources[topic]] < CLOCK_BEGINS * self.topics.partitions

    def _flush(self) -> None:
        if self._producer is not None:
            assert self._producer.flush(SEND_SECONDS) == 0

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Nothing is sent meanwhile, all that was is at the broker; it goes on with another producer."""
        with self._gate:
            self._flush()
            self._producer = None
            yield

    @contextlib.contextmanager
    def sending(self, messages: Sequence[Message], *, seconds: float) -> Iterator[None]:
        """Send meanwhile, evenly over this time; at the end all has been sent."""
        failures: list[BaseException] = []

        def send() -> None:
            try:
                self.send(messages, per_second=len(messages) / seconds)
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failures:
            raise failures[0]

    def wait_sent(self, count: int) -> None:
        """Until the broker has so many messages of ours."""
        deadline = time.monotonic() + SEND_SECONDS
        while len(self.sent) < count:
            assert time.monotonic() < deadline, f"{len(self.sent)} of {count} messages sent"
            time.sleep(0.02)

    def kill(self, role: str) -> None:
        """kill -9, as soon as it runs."""
        deadline = time.monotonic() + RESTORE_SECONDS
        while f"{role}-0" not in self.launcher.pids():
            assert time.monotonic() < deadline, f"{role} is not started again"
            time.sleep(0.02)
        self.launcher.kill(role)

    def wait_drained(self, seconds: float = DRAIN_SECONDS) -> None:
        """Until every group has committed everything, the one that counts what is not yet queryable included."""
        deadline = time.monotonic() + seconds
        seen = "nothing read"
        while time.monotonic() < deadline:
            self.launcher.check()
            try:
                report = self._lag_reader().read(max_age_seconds=0)
            except BrokerError as exc:  # it restarts: asked again
                seen = str(exc)
            else:
                seen = f"lag {report.lag_messages}, status {report.status}"
                if report.whole and report.lag_messages == 0 and self.all_ready():
                    return
            time.sleep(0.1)
        raise AssertionError(f"not drained after {seconds:g} s: {seen}; logs in {self.launcher.log_dir}")

    def wait_silent(self, seconds: float = DRAIN_SECONDS) -> None:
        """Until everybody is embedded as of the time that has passed, and that is served."""
        group, tokens, number = self.topics.group_worker, self.topics.tokens, self.topics.partitions
        deadline = time.monotonic() + seconds
        while True:
            passed: dict[int, int] = {}
            for partition, path in find(self.settings.store.data_dir / "processor").items():
                with BufferView(path, self.settings.modalities) as view:
                    passed[partition] = floor_hour(view.stream_time)
            found = [read_horizon(tp.metadata) for tp in committed(self.launcher.connection, group, tokens, number)]
            if all(h is not None and h.at == h.reached >= passed.get(p, 0) for p, h in enumerate(found)):
                break
            assert time.monotonic() < deadline, f"horizons {found}, time has passed to {passed}"
            time.sleep(0.2)
        self.wait_drained()

    def _lag_reader(self) -> LagReader:
        """One for as long as the broker is where it was."""
        connection = self.launcher.connection
        if self._lag is None or self._lag[0] != connection.bootstrap:
            if self._lag is not None:
                self._lag[1].close()
            raw = {m.topic for m in self.settings.modalities.values()}
            reader = LagReader(connection, plan(self.topics, raw, self.settings.scenarios))
            self._lag = connection.bootstrap, reader
        return self._lag[1]

    def count(self, role: str) -> int:
        """Processes a role should have."""
        return sum(name.startswith(f"{role}-") for name in self.names)

    def add(self, role: str, instance: int) -> str:
        """One more process."""
        name = self.launcher.add_role(role, instance)
        self.names.add(name)
        return name

    def remove(self, name: str) -> None:
        """One process less, in order."""
        self.names.discard(name)
        self.launcher.remove_role(name)

    def all_ready(self) -> bool:
        """Whether every process that should run works, none being restarted."""
        run = self.settings.store.data_dir / "run"
        return (pids := self.launcher.pids()).keys() == self.names and all(
            is_ready(run / f"{name}.ready", pid) for name, pid in pids.items()
        )

    def served(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every record over HTTP, by (user, scenario)."""
        service = Service.find(self.settings, None)
        return {(r["user_id"], s): r for s in self.settings.scenarios for r in service.embeddings(s)}

    def buffered(self) -> dict[str, UserWindow]:
        """What the processors' buffers hold; of each partition the copy that has come furthest.

        A partition that nobody sent anything to since it moved is still being restored while nothing lags.
        """
        ends = self.token_ends()
        deadline = time.monotonic() + RESTORE_SECONDS
        while True:
            out: dict[str, UserWindow] = {}
            reached: dict[int, int] = {}
            for partition, path in find(self.settings.store.data_dir / "processor").items():
                with BufferView(path, self.settings.modalities) as view:
                    reached[partition] = view.log_offset
                    out |= {user: view.window(user) for user in view.users()}
            if all(reached.get(partition, 0) >= end for partition, end in ends.items()):
                return out
            assert time.monotonic() < deadline, f"log offsets of the buffers {reached}, ends of the log {ends}"
            time.sleep(0.2)

    def token_ends(self) -> dict[int, int]:
        """End offset of each partition of `tokens`."""
        with contextlib.closing(self.launcher.connection.consumer("ends")) as consumer:
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self.topics.tokens, p), timeout=60)[1]
                for p in range(self.topics.partitions)
            }

    def check(self, texts: TextEncoder, users: UserEncoder) -> None:
        """Buffer, embeddings and dead letters are what the messages sent must become, nothing lost, nothing doubled;
        and on the way nothing went back. What waits is nothing."""
        verdict = self.judge(texts, users)
        verdict.demand_innocence()
        invariants.lag_is_ok(Service.find(self.settings, None))

    def judge(self, texts: TextEncoder, users: UserEncoder) -> Verdict:
        """The same, counted. Raises AssertionError: windows without bounds, or metrics that cannot be."""
        verdict = Verdict()
        if self.reference is None:
            self.reference = Reference(self.settings, texts)
        new, self._taken = self.sent[self._taken :], len(self.sent)
        self.reference.take(new)
        want = self.reference.expected(users)
        buffered = self.buffered()
        self.wait_silent()
        compare_windows(verdict, buffered, {user: e.window for user, e in want.items()})
        compare_served(verdict, self.served(), want, sorted(self.settings.scenarios))
        self.history.read(self.launcher.connection, verdict)
        compare_letters(verdict, self.history.letters, self.reference.letters)
        compare_account(verdict, self.account(), self.sent, self.reference.letters, self.sources)
        invariants.windows_within_bounds(buffered, self.settings.modalities)
        self.counts.look(self.metrics_urls(), self.launcher.pids())
        return verdict

    def account(self) -> AccountReport:
        """What became of everything, once processors have told."""
        raw = {m.topic for m in self.settings.modalities.values()}
        with contextlib.closing(AccountReader(self.launcher.connection, self.topics, raw)) as reader:
            return reader.settled(seconds=ACCOUNT_SECONDS)

    def metrics_urls(self) -> dict[str, str]:
        """Of every process; serve's are beside its answers."""
        serve = running_url(self.settings.store.data_dir, self.settings.kafka.topic_prefix)
        return {
            name: serve if name.startswith("serve-") else f"http://127.0.0.1:{self.networks.metrics_ports[name]}"
            for name in self.names
        }


@contextlib.contextmanager
def system(folder: Path, spawn: Spawn, **options: Any) -> Iterator[System]:
    """A running system; on failure the roles' last log lines are printed."""
    s = System(folder, spawn, **options)
    with s.telling(), s:
        yield s
