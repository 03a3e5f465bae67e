"""What `[kafka.properties]` may not set, and why."""

from __future__ import annotations

import pytest

from stream.broker_properties import fault

SASL = {"security.protocol": "SASL_SSL", "sasl.username": "u", "sasl.password": "p"}


@pytest.mark.parametrize(
    "name",
    [
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "transactional.id",
        "isolation.level",
        "auto.offset.reset",
        "partition.assignment.strategy",
        "group.instance.id",
        "group.protocol",
        "delivery.report.only.error",
        "produce.offset.report",
        "enable.partition.eof",
        "metadata.broker.list",
        "test.mock.num.brokers",
    ],
)
def test_what_a_guarantee_rests_on_cannot_be_set(name: str) -> None:
    """A9. With acks=0 a broken connection at one Produce lost five events whose raw offsets were committed."""
    said = fault({"linger.ms": 5, name: "0"})
    assert said is not None
    assert said.startswith(f"{name} cannot be set: ")


@pytest.mark.parametrize(
    "properties",
    [
        {"ssl.keystore.location": "a.p12"},
        {"ssl.crl.location": "crl.pem"},
        {"ssl.engine.location": "engine.so"},
        {**SASL, "sasl.mechanism": "OAUTHBEARER"},
        {**SASL, "sasl.mechanisms": "GSSAPI"},
        {**SASL, "sasl.mechanism": "PLAIN", "sasl.oauthbearer.config": "x"},
        {"security.protocol": "SASL_TLS"},
    ],
)
def test_what_one_role_cannot_do_no_role_does(properties: dict[str, str]) -> None:
    """B9. Such settings worked in all roles but the processor, or were ignored there without a word."""
    said = fault(properties)
    assert said is not None
    assert any(said.startswith(name) for name in properties)


@pytest.mark.parametrize(
    ("properties", "missing"),
    [
        (SASL, "sasl.mechanism"),
        ({"ssl.certificate.pem": "x"}, "ssl.key"),
        ({"ssl.key.location": "x"}, "ssl.certificate"),
    ],
)
def test_half_a_setting_is_named(properties: dict[str, str], missing: str) -> None:
    assert missing in (fault(properties) or "")


def test_everything_else_passes() -> None:
    assert fault({}) is None
    assert fault({"linger.ms": 50, "client.rack": "a", "session.timeout.ms": 30_000, "debug": "broker"}) is None
    assert fault({**SASL, "sasl.mechanism": "scram-sha-512", "ssl.ca.location": "ca.pem"}) is None
    assert fault({"security.protocol": "ssl", "ssl.certificate.location": "c", "ssl.key.pem": "k"}) is None
