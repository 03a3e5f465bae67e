"""librdkafka's security properties in the words of aiokafka and Faust, so that one config serves all clients."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from store.base.errors import ConfigError
from stream.broker_properties import fault, mechanism, protocol


def aiokafka_security(properties: Mapping[str, Any]) -> dict[str, Any]:
    """`security_protocol`, `ssl_context` and `sasl_*` of an aiokafka client; empty for PLAINTEXT.

    Raises:
        ConfigError: aiokafka has no counterpart for a setting, or a certificate cannot be read.
    """
    if (wrong := fault(properties)) is not None:
        raise ConfigError(f"kafka.properties: {wrong}", action="see docs/configuration.md, Security")
    if protocol(properties) == "PLAINTEXT":
        return {}
    options: dict[str, Any] = {"security_protocol": protocol(properties)}
    if protocol(properties).endswith("SSL"):
        options["ssl_context"] = _ssl_context(properties)
    if protocol(properties).startswith("SASL"):
        options |= {
            "sasl_mechanism": mechanism(properties),
            "sasl_plain_username": str(properties.get("sasl.username", "")),
            "sasl_plain_password": str(properties.get("sasl.password", "")),
        }
    return options


def faust_credentials(properties: Mapping[str, Any]) -> Any | None:
    """Faust's `broker_credentials`, or None for PLAINTEXT.

    Raises:
        ConfigError: as `aiokafka_security`.
    """
    options = aiokafka_security(properties)
    if not options:
        return None
    import faust.auth  # Faust takes 0.5 s to import and only the processor needs it

    context = options.get("ssl_context")
    if "sasl_mechanism" not in options:
        return faust.auth.SSLCredentials(context)
    return faust.auth.SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        mechanism=options["sasl_mechanism"],
        ssl_context=context,
    )


def _ssl_context(properties: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        ca = properties.get("ssl.ca.location")
        context = ssl.create_default_context(
            cafile=None if ca == "probe" else ca, cadata=properties.get("ssl.ca.pem") or None
        )
        with ExitStack() as files:
            certificate, key = (files.enter_context(_file(properties, name)) for name in ("certificate", "key"))
            if certificate is not None:
                context.load_cert_chain(certificate, key, properties.get("ssl.key.password") or None)
        if ciphers := properties.get("ssl.cipher.suites"):
            context.set_ciphers(str(ciphers))
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"kafka.properties: cannot load the certificates: {exc}",
            action="check ssl.ca.*, ssl.certificate.*, ssl.key.* (PEM) and ssl.key.password",
        ) from exc
    if str(properties.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    if str(properties.get("enable.ssl.certificate.verification", True)).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _file(properties: Mapping[str, Any], name: str) -> Iterator[str | None]:
    """Path of a PEM file; what stands in the configuration itself lies in one that only we can read, meanwhile."""
    if (pem := properties.get(f"ssl.{name}.pem")) is None:
        yield properties.get(f"ssl.{name}.location")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600; Python loads keys from files only
        file.write(str(pem))
        file.flush()
        yield file.name
