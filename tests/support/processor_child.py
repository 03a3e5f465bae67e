"""A processor in a process of its own, for tests that kill it: `python -m tests.support.processor_child SPEC`, JSON."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from store.base import logs
from store.base.settings import ModalitySettings
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from stream.kafka.client import Connection
from stream.processor import batch_writer
from stream.processor.processor import Processor
from stream.settings import KafkaSettings, ProcessorSettings
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder

log = logs.get("child")


def open_slowly() -> None:
    """As if there were no end of what to restore, until that has been given up; which is logged."""
    real = batch_writer.open_partition
    given_up = threading.Event()

    def slow(*args: Any) -> Any:
        if given_up.is_set():
            return real(*args)
        log.info("opening", partition=args[1])
        while not args[3].is_set():
            time.sleep(0.02)
        log.info("gave_up", partition=args[1])
        given_up.set()
        return None

    batch_writer.open_partition = slow  # type: ignore[assignment]


def main(spec: dict[str, Any]) -> None:
    logs.configure("processor")
    if spec.get("open_slowly"):
        open_slowly()
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
