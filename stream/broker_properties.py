"""Which of librdkafka's properties `[kafka.properties]` may set. Pure.

What a guarantee rests on cannot be set. What concerns security must mean the same to every role: the processor reads
through Faust and aiokafka (`stream/kafka/security.py`), so what they cannot do is refused for all.
"""

from __future__ import annotations

from collections.abc import Mapping

Property = str | int | float | bool

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_OURS = {
    "bootstrap.servers": "it is kafka.bootstrap_servers",
    "metadata.broker.list": "it is kafka.bootstrap_servers",
    "acks": "an output counts when all replicas have it",
    "request.required.acks": "an output counts when all replicas have it",
    "enable.idempotence": "a retry must not write twice, nor change the order",
    "enable.gapless.guarantee": "a failed output is sent again by us",
    "transactional.id": "it belongs to a partition",
    "partitioner": "a user must lie in the same partition in every topic",
    "delivery.report.only.error": "offsets are committed by what was acknowledged",
    "produce.offset.report": "a writer is judged by the offsets it got",
    "group.id": "groups are named by kafka.topic_prefix and role",
    "group.instance.id": "two processes with one id throw each other out",
    "group.protocol": "the processor's client speaks the classic one only",
    "group.remote.assignor": "the processor's client speaks the classic group protocol only",
    "partition.assignment.strategy": "positions are kept for the strategy we use",
    "auto.offset.reset": "a lost position must be an error where it means lost data",
    "isolation.level": "what was aborted must not be read",
    "enable.auto.commit": "an offset is committed when its work is durable",
    "auto.commit.enable": "an offset is committed when its work is durable",
    "enable.auto.offset.store": "an offset is committed when its work is durable",
    "enable.partition.eof": "a role that does not expect the end of a partition takes it for an error",
    "allow.auto.create.topics": "topics are made with the settings they need, or not at all",
    "test.mock.num.brokers": "it replaces the broker",
}
"""Property → why it is not the user's."""

_SECURITY = (
    "security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password",
    "ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem", "ssl.key.location",
    "ssl.key.pem", "ssl.key.password", "ssl.cipher.suites", "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
)  # fmt: skip
"""Honoured by every client."""
_SECURITY_PREFIXES = ("ssl.", "sasl.", "security.", "enable.sasl.", "enable.ssl.", "https.")


def fault(properties: Mapping[str, Property]) -> str | None:
    """The first reason why these properties cannot be used, naming the property; None = they can."""
    for name, value in properties.items():
        if name in _OURS:
            return f"{name} cannot be set: {_OURS[name]}"
        if name.startswith(_SECURITY_PREFIXES) and name not in _SECURITY:
            hint = "; use PEM files (ssl.certificate.location, ssl.key.location)" if "keystore" in name else ""
            return f"{name} is not honoured by the processor's client, so no role takes it{hint}"
        if name == "security.protocol" and str(value).upper() not in PROTOCOLS:
            return f"security.protocol {value!r} is unknown; use one of {', '.join(PROTOCOLS)}"
        if name in ("sasl.mechanism", "sasl.mechanisms") and str(value).upper() not in MECHANISMS:
            return f"{name} {value!r} is not supported by the processor's client; use one of {', '.join(MECHANISMS)}"
    if protocol(properties).startswith("SASL") and not mechanism(properties):
        return f"sasl.mechanism is missing: security.protocol asks for one of {', '.join(MECHANISMS)}"
    for one, other in (("certificate", "key"), ("key", "certificate")):
        if any(f"ssl.{one}.{form}" in properties for form in ("location", "pem")) and not any(
            f"ssl.{other}.{form}" in properties for form in ("location", "pem")
        ):
            return f"ssl.{one} is set and ssl.{other} is not: a client certificate needs both"
    return None


def protocol(properties: Mapping[str, Property]) -> str:
    """`security.protocol`, upper case."""
    return str(properties.get("security.protocol", "PLAINTEXT")).upper()


def mechanism(properties: Mapping[str, Property]) -> str:
    """`sasl.mechanism` by either of its names, upper case; empty = none."""
    return str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", ""))).upper()
