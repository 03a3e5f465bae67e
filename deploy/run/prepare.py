"""`python -m deploy.run.prepare`: wait for the broker and make the topics; what runs before a role in a container.

`anchorstream up` does the same for itself. Safe to run by several containers at once, and again at every start.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from deploy import brokers
from deploy.kafka import topics
from deploy.settings.config import Settings, load
from store.base import logs
from store.base.errors import BrokerError
from stream.kafka.client import Connection

WAIT_SECONDS = 120.0
log = logs.get(__name__)


def prepare(settings: Settings, *, wait_seconds: float = WAIT_SECONDS) -> list[str]:
    """Wait for the broker, then create the missing topics and verify the others; returns those created.

    Raises:
        BrokerError: no broker in time. TopicError: a topic is not as configured.
    """
    connection = _wait(settings, wait_seconds)
    return topics.ensure(connection, brokers.specs(settings), replication_factor=settings.kafka.replication_factor)


def _wait(settings: Settings, seconds: float) -> Connection:
    deadline = time.monotonic() + seconds
    said = False
    while True:
        try:
            return brokers.connect(settings, timeout_s=min(5.0, seconds))
        except BrokerError as exc:
            if time.monotonic() >= deadline:
                raise
            if not said:
                log.warning(logs.BROKER_UNAVAILABLE, detail=exc.detail, waiting_seconds=seconds)
                said = True
            time.sleep(0.5)


def main(argv: list[str] | None = None) -> int:
    """Entry of the process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.run.prepare", description=__doc__)
    parser.add_argument("--config", type=Path, help="TOML file; default: built-in defaults and the environment")
    parser.add_argument("--wait", type=float, default=WAIT_SECONDS, metavar="SECONDS", help="for the broker")
    args = parser.parse_args(argv)
    try:
        logs.configure("prepare")
        logs.catch_all()
        prepare(load(args.config), wait_seconds=args.wait)
    except Exception as exc:
        return logs.last_words(exc)
    return 0


if __name__ == "__main__":
    sys.exit(main())
