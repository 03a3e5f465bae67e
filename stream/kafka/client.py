"""One way to reach the broker: consumers, producers and admin clients with the settings our guarantees need.

`Connection` is a value (picklable, no sockets): each role makes its own clients from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import confluent_kafka
from confluent_kafka.admin import AdminClient

from store.base.errors import BrokerError, ConfigError
from stream.broker_properties import Property
from stream.kafka.client_log import OncePerCause, throttling
from stream.kafka.security import faust_credentials

EMBEDDED_SESSION_TIMEOUT_MS = 6_000
"""The embedded broker makes a joining member wait session timeout - 1 s, so it is as short as Kafka itself allows."""
SESSION_TIMEOUT_MS = 10_000
"""How long a killed member's partitions stay unread."""
EMBEDDED_FETCH_WAIT_MS = 100
"""A fetch that finds nothing is answered after this. Kafka answers as soon as a message comes; the embedded broker does
not, so there it is what a message waits for at most."""
EMBEDDED_EXCHANGE_WAIT_MS = 10
"""The same where somebody waits for the answer; costs a hundredth of a core."""
CLIENT_ID = "anchorstream"
log = logging.getLogger("librdkafka")
log.addFilter(OncePerCause())
_CLIENT: dict[str, Property] = {
    "client.id": CLIENT_ID,
    # the default, `rebootstrap`, makes librdkafka 2.16 forget its coordinators when all connections break at once: a
    # transaction's next call blocks for good, and a group member may never join again
    "metadata.recovery.strategy": "none",
}
# a client that is told of no broker at all has none for good: always with `none`, often with `rebootstrap` (librdkafka
# issue 5301). A single Kafka that is being stopped says so for some milliseconds. So whoever lives long is watched:
# AssignedReader, GroupClient, LastingAdmin, Membership, FencedProducer. And with `none` a request of an admin client
# keeps a core busy for as long as no broker is there. Who has no coordinator to forget does without it
_NO_COORDINATOR: dict[str, Property] = {"metadata.recovery.strategy": "rebootstrap"}


class Admin(Protocol):
    """confluent_kafka's AdminClient, whose types are unknown here: what it is is checked, what it can do is not."""

    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Connection:
    """Where the broker is and how to speak to it.

    `identity` names the data behind the address: "kafka:<cluster id>", or "embedded:<uuid of this broker's life>".
    Of an embedded broker alone: `control` is the host:port where topics can be added, see deploy/brokers/embedded.py.
    `keeper`: the group that writes down what the raw topics are given; "" = nobody. `history`: names what is kept, over
    all broker processes that were given it.
    """

    bootstrap: str
    properties: Mapping[str, Property] = field(default_factory=dict)
    embedded: bool = False
    identity: str = ""
    control: str = ""
    keeper: str = ""
    history: str = ""

    @property
    def session_timeout_ms(self) -> int:
        """Session timeout of group members."""
        default = EMBEDDED_SESSION_TIMEOUT_MS if self.embedded else SESSION_TIMEOUT_MS
        return int(self.properties.get("session.timeout.ms", default))

    @property
    def heartbeat_interval_ms(self) -> int:
        """Heartbeat interval of group members."""
        return int(self.properties.get("heartbeat.interval.ms", 1_000 if self.embedded else 2_000))

    def consumer(self, group: str, **config: Property) -> Any:
        """A confluent_kafka.Consumer of `group` that never commits by itself.

        Commits are the caller's, after the work is durable. Keys of `config` are librdkafka's, with dots.

        Raises:
            ConfigError: librdkafka does not take a property; so do `producer` and `admin`.
        """
        base: dict[str, Any] = {
            **_CLIENT,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": self.session_timeout_ms,
            "heartbeat.interval.ms": self.heartbeat_interval_ms,
            **({"fetch.wait.max.ms": EMBEDDED_FETCH_WAIT_MS} if self.embedded else {}),
            **self.properties,
            "isolation.level": "read_committed",  # what a worker had under way when it lost a partition was aborted
            **config,
            "bootstrap.servers": self.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
        }
        return _made(confluent_kafka.Consumer, base)

    def reader(self, group: str, **config: Property) -> Any:
        """The same for who is assigned its partitions, or only asks: it must neither subscribe nor commit."""
        return self.consumer(group, **{**_NO_COORDINATOR, **self.properties, **config})

    def producer(self, **config: Any) -> Any:
        """A confluent_kafka.Producer: acknowledged by all replicas, no duplicates by retries, Java's partitioner."""
        base: dict[str, Any] = {
            **_CLIENT,
            **({} if "transactional.id" in config else _NO_COORDINATOR),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "zstd",
            "linger.ms": 5,
            **self._without_consumer_keys(),
            **config,
            "bootstrap.servers": self.bootstrap,
            "partitioner": "murmur2_random",
        }
        return _made(confluent_kafka.Producer, base)

    def exchange_consumer(self, group: str) -> Any:
        """A consumer for questions and answers that somebody waits for; what is gone is skipped."""
        wait: dict[str, Property] = {"fetch.wait.max.ms": EMBEDDED_EXCHANGE_WAIT_MS} if self.embedded else {}
        return self.reader(group, **{"auto.offset.reset": "latest", **wait})

    def exchange_producer(self, lifetime_ms: int, on_failure: Callable[[Any], object]) -> Any:
        """A producer for questions and answers that somebody waits for: at once, and perhaps twice.

        Args:
            lifetime_ms: a message that is not delivered by then is dropped.
            on_failure: called with the KafkaError of each message that was, from `poll` or `flush`.
        """

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                on_failure(error)

        return self.producer(
            **{
                "linger.ms": 0,
                "enable.idempotence": False,
                "message.timeout.ms": lifetime_ms,
                "on_delivery": delivered,
                "delivery.report.only.error": True,
            }
        )

    def admin(self, **config: Any) -> Admin:
        """A confluent_kafka.admin.AdminClient. Hold it until its futures are done: they fail when it is collected."""
        base = {**_CLIENT, **_NO_COORDINATOR, **self._without_consumer_keys(), **config}
        found: Admin = _made(AdminClient, {**base, "bootstrap.servers": self.bootstrap})
        return found

    def named(self, client_id: str) -> Connection:
        """The same, its clients named so in the broker's logs, quotas and metrics, unless `properties` name them."""
        return replace(self, properties={"client.id": client_id, **self.properties})

    def faust_options(self) -> dict[str, Any]:
        """Settings of a faust.App: brokers, credentials and timeouts that fit the broker.

        Raises:
            ConfigError: a security setting has no counterpart in Faust.
        """
        options: dict[str, Any] = {
            "broker": ";".join(f"kafka://{host.strip()}" for host in self.bootstrap.split(",")),
            "broker_session_timeout": self.session_timeout_ms / 1000,
            "broker_heartbeat_interval": self.heartbeat_interval_ms / 1000,
            "broker_client_id": str(self.properties.get("client.id", CLIENT_ID)),
            "topic_allow_declare": False,
            "topic_disable_leader": True,
        }
        if (credentials := faust_credentials(self.properties)) is not None:
            options["broker_credentials"] = credentials
        return options

    def metadata(self, *, timeout_s: float = 10.0) -> Any:
        """Cluster metadata: brokers, `cluster_id`, topics and partitions.

        Never asks for a topic by name: on brokers with auto-creation (the embedded one too) that would create it.

        Raises:
            BrokerError: no answer in time.
        """
        heard: list[confluent_kafka.KafkaError] = []
        admin = self.admin(error_cb=heard.append)
        try:
            return admin.list_topics(timeout=timeout_s)
        except confluent_kafka.KafkaException as exc:
            admin.poll(0)  # what the client heard meanwhile says more than the exception
            why = next((e.str() for e in heard if e.code() not in _VAGUE), exc.args[0].str())
            action = "check kafka.bootstrap_servers and kafka.properties, and that the broker runs"
            if heard and all(e.code() in _VAGUE for e in heard):
                # so does a listener with TLS that is met in plain text, and one that wants a log-in first
                why = f"something listens there and closes connections without a word ({why})"
                protocol = self.properties.get("security.protocol", "plaintext")
                action = f"ask which security.protocol the listener wants; here it is {protocol}"
            raise BrokerError(f"no answer from {self.bootstrap} in {timeout_s:g} s: {why}", action=action) from exc

    def _without_consumer_keys(self) -> dict[str, Property]:
        """`properties` that fit producers and admin clients: librdkafka warns about the others at every start."""
        consumer_only = ("session.", "heartbeat.", "max.poll.", "fetch.", "auto.offset.", "group.", "isolation.")
        return {
            key: value
            for key, value in self.properties.items()
            if not key.startswith((*consumer_only, "partition.assignment.", "check.crcs"))
        }


_VAGUE = frozenset({confluent_kafka.KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001


def _made(kind: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    try:
        return kind({"throttle_cb": throttling, **config}, logger=log)
    except confluent_kafka.KafkaException as exc:  # it names the property
        raise ConfigError(
            f"kafka.properties: {exc.args[0].str()}", action="see librdkafka's CONFIGURATION.md for names and values"
        ) from exc


def connected(bootstrap: str, properties: Mapping[str, Property], *, timeout_s: float = 10.0) -> Connection:
    """A connection to a Kafka cluster that is there, with its identity.

    Raises:
        BrokerError: no answer in time.
    """
    found = Connection(bootstrap, properties)
    cluster = found.metadata(timeout_s=timeout_s).cluster_id
    return Connection(bootstrap, properties, identity=f"kafka:{cluster}")
