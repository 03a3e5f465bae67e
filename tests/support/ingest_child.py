"""Ingest in a process of its own, for a test that kills it: arguments are an embedded broker's address and identity."""

from __future__ import annotations

import sys
import threading

from store.base import logs
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.settings import IngestSettings
from tests.stream.ingest.test_ingest import MODALITIES, TOPICS

if __name__ == "__main__":
    logs.configure("ingest")
    Ingest(
        Connection(sys.argv[1], embedded=True, identity=sys.argv[2]),
        TOPICS,
        MODALITIES,
        IngestSettings(batch_messages=20),
        on_ready=lambda: logs.get("child").info(logs.ROLE_READY),
    ).run(threading.Event())
