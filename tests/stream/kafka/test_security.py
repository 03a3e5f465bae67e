"""One set of security properties for librdkafka, aiokafka and Faust."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import faust.auth
import pytest
import trustme

from store.base.errors import ConfigError
from stream.kafka.client import Connection
from stream.kafka.security import aiokafka_security, faust_credentials

SASL = {"sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "u", "sasl.password": "p"}


def test_plaintext_needs_nothing() -> None:
    """The default is no security at all."""
    assert aiokafka_security({}) == {}
    assert faust_credentials({"security.protocol": "plaintext"}) is None


def test_sasl_over_tls() -> None:
    """Everything is carried over, and certificates are checked unless switched off."""
    options = aiokafka_security({"security.protocol": "SASL_SSL", **SASL})
    context = options.pop("ssl_context")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert options == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }
    assert isinstance(faust_credentials({"security.protocol": "SASL_SSL", **SASL}), faust.auth.SASLCredentials)
    assert isinstance(faust_credentials({"security.protocol": "SSL"}), faust.auth.SSLCredentials)


def test_verification_can_be_switched_off_as_in_librdkafka() -> None:
    """Both of librdkafka's switches are understood."""
    context = aiokafka_security({"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"})
    assert not context["ssl_context"].check_hostname
    assert context["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    context = aiokafka_security({"security.protocol": "ssl", "enable.ssl.certificate.verification": False})
    assert context["ssl_context"].verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "SASL_TLS"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"},
        {"security.protocol": "SSL", "ssl.ca.location": "/nowhere/ca.pem"},
    ],
)
def test_what_has_no_counterpart_is_refused(properties: dict[str, str]) -> None:
    """Better at start than as a processor that cannot log in."""
    with pytest.raises(ConfigError, match=r"kafka\.properties"):
        aiokafka_security(properties)


@pytest.mark.parametrize("inline", [False, True], ids=["files", "pem"])
def test_certificates_in_files_or_in_the_configuration(inline: bool, tmp_path: Path) -> None:
    """B9. A real handshake in which the server asks for our certificate."""
    ca = trustme.CA()
    ours, theirs = ca.issue_cert("client.test"), ca.issue_cert("localhost")
    pem = {
        "ca": ca.cert_pem.bytes().decode(),
        "certificate": "".join(part.bytes().decode() for part in ours.cert_chain_pems),
        "key": ours.private_key_pem.bytes().decode(),
    }
    properties = {"security.protocol": "SSL"}
    for name, text in pem.items():
        (tmp_path / name).write_text(text)
        properties |= {f"ssl.{name}.pem": text} if inline else {f"ssl.{name}.location": str(tmp_path / name)}
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.verify_mode = ssl.CERT_REQUIRED
    theirs.configure_cert(server)
    ca.configure_trust(server)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with server.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(b"hello")

        thread = threading.Thread(target=greet)
        thread.start()
        context = aiokafka_security(properties)["ssl_context"]
        with (
            socket.create_connection(listener.getsockname(), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert tls.recv(5) == b"hello"
        thread.join()


def test_a_property_that_librdkafka_refuses_is_named() -> None:
    """Not a traceback of its own."""
    with pytest.raises(ConfigError, match=r"kafka\.properties: .*linger\.mss"):
        Connection("127.0.0.1:1", {"linger.mss": 5}).producer()


def test_faust_options() -> None:
    """Several hosts, and session timeouts that fit the broker."""
    options = Connection("a:1,b:2").faust_options()
    assert options["broker"] == "kafka://a:1;kafka://b:2"
    assert options["broker_session_timeout"] == 10
    assert Connection("a:1", embedded=True).faust_options()["broker_session_timeout"] == 6
    assert Connection("a:1", {"session.timeout.ms": 30_000}).faust_options()["broker_session_timeout"] == 30
