"""Faults that an operator makes by hand beneath a running system, as the table in docs/lag.md has them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from deploy import cli
from deploy.kafka.topic_settings import alter
from tests.support.faulty_system import System, each_is_said, until
from tests.support.faulty_system import system as system

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(1500)]


@contextmanager
def policy_changed(system: System) -> Iterator[str]:
    alter(system.kafka.connection, {system.topics.tokens: {"cleanup.policy": "delete"}})
    until(lambda: system.lag().get("topic_faults"), "serve names it")
    try:
        yield "worker"
    finally:
        assert cli.run(["topics", "mend", "--config", str(system.config)]) == 0
        until(lambda: system.lag().get("topic_faults") == [], "serve has seen it mended")


@contextmanager
def state_deleted(system: System) -> Iterator[str]:
    for role in ("processor", "worker"):
        shutil.rmtree(system.settings.store.data_dir / role)
    until(lambda: not {"processor-0", "worker-0"} & system.up.pids().keys(), "both have ended")
    try:
        yield "worker"
    finally:
        system.revive("processor")
        system.revive("worker")
        system.produce()


FAULTS: dict[str, Callable[[System], AbstractContextManager[str]]] = {
    "retention or cleanup policy of a topic of ours is changed": policy_changed,
    "a state folder is deleted under a running role": state_deleted,
}


def test_each_is_said_as_the_table_has_it(
    system: System, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    """Each is mended before the next, and everything arrives at the end."""
    system.produce()
    each_is_said(system, FAULTS, capsys, subtests)
    system.healthy()
