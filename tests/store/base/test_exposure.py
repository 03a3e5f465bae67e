"""Who reaches an address, and that nobody is let in without a token unasked."""

from __future__ import annotations

import threading

import pytest
from pydantic import SecretStr

from deploy.run.launcher import Launcher
from deploy.run.roles import run_role
from deploy.settings.config import load
from store.base.errors import ConfigError
from store.base.exposure import check_exposure, is_loopback
from store.base.settings import ServeSettings

OPEN = ["0.0.0.0", "0", "::", "192.0.2.1", "::ffff:192.0.2.1", "no.such.host.invalid", "127.0.0.1.invalid"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "127.1", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    check_exposure(ServeSettings(host=host))


@pytest.mark.parametrize("host", OPEN)
def test_others_are_not_let_in_without_a_token(host: str) -> None:
    assert not is_loopback(host)
    for settings in (ServeSettings(host=host), ServeSettings(host=host, admin_token=SecretStr("a"))):
        with pytest.raises(ConfigError, match="read_token"):
            check_exposure(settings)
    check_exposure(ServeSettings(host=host, read_token=SecretStr("r")))
    check_exposure(ServeSettings(host=host, insecure=True))


def test_neither_up_nor_run_opens_the_door() -> None:
    """C1: both bound 0.0.0.0 without a token."""
    settings = load(None, overrides={"serve": {"host": "0.0.0.0"}})
    with pytest.raises(ConfigError, match="read_token"):
        Launcher(settings)
    with pytest.raises(ConfigError, match="read_token"):
        run_role("serve", settings, instance="0", stop=threading.Event())
    Launcher(settings, roles=("ingest", "worker"))


def test_an_empty_host_is_no_address() -> None:
    with pytest.raises(ConfigError, match=r"serve\.host"):
        load(None, overrides={"serve": {"host": ""}})
