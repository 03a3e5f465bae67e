"""Who can reach an address that is listened on, and whether serve may be reached so."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

from store.base.errors import ConfigError
from store.base.settings import ServeSettings


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name is resolved; every address of it must be a loopback one.

    False for what cannot be resolved.
    """
    try:
        return _is_loopback_address(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(_is_loopback_address(str(address[0])) for *_, address in found)


def is_this_machine(name: str) -> bool:
    """Whether a name or address means the machine it is used on, by itself: nothing is resolved."""
    try:
        return _is_loopback_address(name)
    except ValueError:
        return name.lower().rstrip(".").rpartition(".")[2] == "localhost"


def netloc(host: str, port: int) -> str:
    """`host:port` by which a client on this machine reaches what listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"


def check_exposure(settings: ServeSettings) -> None:
    """Refuse to let others in without a token.

    Raises:
        ConfigError: `host` is reached from elsewhere, there is no `read_token`, and not `insecure`.
    """
    if settings.read_token is None and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"serve.host = {settings.host!r} lets others in, and there is no serve.read_token",
            action="set serve.read_token and serve.admin_token, keep serve.host on 127.0.0.1, or, where something in "
            "front of it asks who is there, set serve.insecure = true",
        )


def _is_loopback_address(text: str) -> bool:
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
