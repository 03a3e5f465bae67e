"""Topics that are deleted."""

from __future__ import annotations

import time
from collections.abc import Sequence

from stream.kafka.client import Connection


def delete_topics(connection: Connection, names: Sequence[str]) -> None:
    """On return they are gone."""
    admin = connection.admin()
    for future in admin.delete_topics(list(names)).values():
        future.result(20)
    deadline = time.monotonic() + 30
    while set(names) & connection.metadata().topics.keys():
        assert time.monotonic() < deadline
        time.sleep(0.01)
