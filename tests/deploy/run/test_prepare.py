"""What runs before a role in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import brokers
from deploy.brokers.local import LocalKafka
from deploy.kafka import topics
from deploy.run.prepare import main, prepare
from deploy.settings.config import load
from deploy.settings.toml_text import dump


@pytest.mark.kafka
def test_topics_are_made_once_and_verified(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": kafka_broker.connection.bootstrap, "topic_prefix": topic_prefix, "partitions": 2}
    settings = load(None, overrides={"kafka": kafka, "store": {"data_dir": str(tmp_path)}})
    assert f"{topic_prefix}.events" in prepare(settings, wait_seconds=20)
    assert prepare(settings, wait_seconds=20) == []
    assert topics.ensure(kafka_broker.connection, brokers.specs(settings)) == []
    config = tmp_path / "wrong.toml"
    config.write_text(dump({"kafka": {**kafka, "partitions": 3}}))
    assert main(["--config", str(config)]) == 1


def test_no_broker_in_time_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:9"\n')
    assert main(["--config", str(config), "--wait", "1"]) == 1
    assert '"error": "broker_unreachable"' in capsys.readouterr().err
    config.write_text("[kafka]\nbootstrap = 1\n")
    assert main(["--config", str(config)]) == 2
