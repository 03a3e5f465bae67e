"""Ports that stay free while whoever has them is down."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""The kernel takes none of these for a connection: net.ipv4.ip_local_port_range begins at 32768."""


def lasting_port() -> int:
    """A free port of 127.0.0.1 that no client's connection will take; for a server that is restarted on it."""
    while True:
        port = random.choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
