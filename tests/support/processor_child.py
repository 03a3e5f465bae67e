"""A processor in a process of its own, for tests that kill it: `python -m tests.support.processor_child SPEC`, JSON."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.base import logs
from store.base.settings import ModalitySettings
from store.base.stop import Stop
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from stream.kafka.client import Connection
from stream.processor import openings
from stream.processor.processor import Processor
from stream.settings import KafkaSettings, ProcessorSettings
from stream.token_log.restore import Restored
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder

log = logs.get("child")


def restore_slowly() -> None:
    """As if there were no end of what to restore, until that has been given up; which is logged."""
    hold(None, threading.Event().is_set)


def hold(partition: int | None, go_on: Callable[[], bool]) -> None:
    """A restore (None: any) does not end, until `go_on` or until one has been given up; which is logged."""
    real_left, real_restore = openings.records_left, openings.restore
    given_up = threading.Event()

    def held(number: int) -> bool:
        return partition in (None, number) and not given_up.is_set() and not go_on()

    def left(*args: Any) -> dict[int, int]:
        return {number: 10**9 if held(number) else rows for number, rows in real_left(*args).items()}

    def slow(connection: Connection, topic: str, number: int, *args: Any, stop: Stop, **options: Any) -> Restored:
        log.info("restoring", partition=number)
        while held(number):
            if stop.is_set():
                log.info("gave_up", partition=number)
                given_up.set()
                return Restored(0, 0, 0, 0.0, complete=False)
            time.sleep(0.02)
        return real_restore(connection, topic, number, *args, stop=stop, **options)

    openings.records_left = left  # type: ignore[assignment]
    openings.restore = slow  # type: ignore[assignment]


def main(spec: dict[str, Any]) -> None:
    logs.configure("processor")
    if spec.get("restore_slowly"):
        restore_slowly()
    if spec.get("hold_until"):
        hold(spec["hold"], Path(spec["hold_until"]).exists)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    connection = Connection(**spec["connection"])
    settings = ProcessorSettings(**spec["processor"])
    encoder = HashEncoder(fail_at=spec.get("fail_at", 0))
    buffers = PartitionBuffers(
        Path(spec["data_dir"]),
        connection.identity,
        {name: ModalitySettings(**settings) for name, settings in spec["modalities"].items()},
        encoder.id,
        encoder.dim,
        int(settings.expiry_granularity_seconds * 1000),
        BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20),
    )
    processor = Processor(
        connection,
        Topics(KafkaSettings(**spec["kafka"])),
        settings,
        encoder,
        buffers,
        on_ready=lambda: log.info(logs.ROLE_READY),
    )
    processor.run(stop)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
