"""Checks of the configuration's own wisdom, the data directory and the port."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile

from deploy.checks.finding import Finding, Level
from deploy.lock import dangling_link, holder
from deploy.serve_file import find
from deploy.settings.config import Settings
from store.base.errors import StateError
from store.base.exposure import check_exposure, is_loopback

FREE_BYTES_WARN = 2 << 30
FREE_BYTES_FAIL = 200 << 20


def check_config(settings: Settings) -> Finding:
    """The configuration was read; is anything in it unwise?"""
    detail = (
        f"{len(settings.modalities)} modalities, {len(settings.scenarios)} scenarios, "
        f"broker {settings.kafka.bootstrap_servers}, model {settings.model.path or settings.model.preset}"
    )
    serve = settings.serve
    check_exposure(serve)
    if not is_loopback(serve.host) and (serve.read_token is None or serve.admin_token is None):
        who = "whoever reaches it may read and" if serve.read_token is None else "who may read"
        return Finding(
            "config",
            Level.WARN,
            f"{detail}; serve.host = {serve.host!r}: {who} may change",
            "set serve.read_token and serve.admin_token, or keep serve.host on 127.0.0.1",
        )
    return Finding("config", Level.OK, detail)


def check_data_dir(settings: Settings) -> Finding:
    """Writable, with room; and who runs on it."""
    data_dir = settings.store.data_dir.absolute()
    if (dangling := dangling_link(data_dir)) is not None:
        raise dangling
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as exc:
        raise StateError(
            f"{existing} is not writable: {exc.strerror}", action="make it writable, or set store.data_dir"
        ) from exc
    owner = holder(data_dir)
    who = f"in use by pid {owner.pid}" if owner else "in use by nobody" if data_dir.exists() else "not there yet"
    detail = f"{data_dir}: {who}, {free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_WARN:
        level = Level.FAIL if free < FREE_BYTES_FAIL else Level.WARN
        return Finding("data directory", level, detail, "free some space, or set store.data_dir to another disk")
    return Finding("data directory", Level.OK, detail)


def check_port(settings: Settings) -> Finding:
    """serve can listen, or does."""
    host, port = settings.serve.host, settings.serve.port
    if port == 0:
        return Finding("port", Level.OK, f"any free port on {host}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as exc:
        return Finding("port", Level.FAIL, f"serve.host = {host!r}: {exc.strerror}", "set it to an address of ours")
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            state = find(settings.store.data_dir.absolute())
            if state is not None and holder(settings.store.data_dir.absolute()) is not None:
                return Finding("port", Level.OK, f"serve answers at {state['url']}")
        return Finding("port", Level.FAIL, f"{host}:{port}: {exc.strerror}", "set serve.port to another one, or 0")
    return Finding("port", Level.OK, f"{host}:{port} is free")
