"""Client quotas of a real Kafka: by its own tool, since confluent-kafka has no call for them."""

from __future__ import annotations

import subprocess

from deploy.brokers.kafka_jars import ensure_jars, java
from stream.kafka.client import Connection


def set_quota(connection: Connection, client_id: str, **rates: int) -> None:
    """Bytes a second by quota (`producer_byte_rate`, `consumer_byte_rate`) for one client.id."""
    subprocess.run(
        [
            java(), "-Xmx128m", "-cp", f"{ensure_jars().absolute()}/*", "kafka.admin.ConfigCommand",
            "--bootstrap-server", connection.bootstrap, "--alter", "--entity-type", "clients",
            "--entity-name", client_id,
            "--add-config", ",".join(f"{name}={rate}" for name, rate in rates.items()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )  # fmt: skip
