"""librdkafka's security properties in the words of aiokafka and Faust, so that one config serves all clients."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from store.base.errors import ConfigError

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def aiokafka_security(properties: Mapping[str, Any]) -> dict[str, Any]:
    """`security_protocol`, `ssl_context` and `sasl_*` of an aiokafka client; empty for PLAINTEXT.

    Raises:
        ConfigError: aiokafka has no counterpart for a setting, or a certificate cannot be read.
    """
    protocol = str(properties.get("security.protocol", "PLAINTEXT")).upper()
    if protocol not in _PROTOCOLS:
        raise ConfigError(
            f"kafka.properties: security.protocol {protocol!r} is unknown", action=f"use one of {', '.join(_PROTOCOLS)}"
        )
    if protocol == "PLAINTEXT":
        return {}
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(properties)
    if protocol.startswith("SASL"):
        mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", ""))).upper()
        if mechanism not in _MECHANISMS:
            raise ConfigError(
                f"kafka.properties: sasl.mechanism {mechanism!r} is not supported by the processor's client",
                action=f"use one of {', '.join(_MECHANISMS)}",
            )
        options |= {
            "sasl_mechanism": mechanism,
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
        context = ssl.create_default_context(cafile=properties.get("ssl.ca.location"))
        if certificate := properties.get("ssl.certificate.location"):
            context.load_cert_chain(
                certificate, properties.get("ssl.key.location"), properties.get("ssl.key.password") or None
            )
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"kafka.properties: cannot load the certificates: {exc}",
            action="check ssl.ca.location, ssl.certificate.location, ssl.key.location and ssl.key.password (PEM files)",
        ) from exc
    if str(properties.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    if str(properties.get("enable.ssl.certificate.verification", True)).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
