"""Live use: time passes by the wall, and silence is heard though no event ever comes again. On real Kafka."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.run.spawn import Spawn
from store.records.embedding import EmbeddingRecord
from store.window.silence import SilenceTicks, floor_hour
from tests.crash import system as system_module
from tests.crash.system import TIMEOUT, System
from tests.crash.test_silence import PARTITIONS, pays
from tests.support.behaviour import CONFIG, DAY_MS
from tests.support.worker_bench import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(TIMEOUT)]

USERS = 12
WAIT_SECONDS = 240


def test_silence_is_heard_without_an_event(tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of three days ago are the last that ever come; killed roles tell it and hear it all the same."""
    live = CONFIG.replace('clock = "stream"', 'clock = "wall"')
    assert live != CONFIG
    monkeypatch.setattr(system_module, "CONFIG", live)
    names = [f"user-{i}" for i in range(USERS)]
    newest = {name: int(time.time() * 1000) - 3 * DAY_MS + 1000 * i for i, name in enumerate(names)}
    with System(tmp_path, spawn) as s, s.telling():
        s.send(pays(names, newest[names[0]], "last"))
        ticks = SilenceTicks(s.settings.model.silence_days)

        def stand() -> dict[tuple[str, str], int]:
            found: dict[tuple[str, str], int] = {}
            for scenario in s.settings.scenarios:
                for message in read_topic(s.launcher.connection, s.topics.embeddings(scenario), PARTITIONS):
                    record = EmbeddingRecord.unpack(message.value())
                    assert record.newest_event == newest[record.user_id]
                    assert record.as_of >= found.get((scenario, record.user_id), 0), "it went back"
                    found[scenario, record.user_id] = record.as_of
            return found

        def heard() -> bool:
            """By everybody, up to the hour that was whole when they were looked at."""
            now = stand()
            if len(now) < USERS * len(s.settings.scenarios):
                return False
            hours = (floor_hour(int(time.time() * 1000)) - back * 3_600_000 for back in (0, 1))
            return any(
                all(at == ticks.stands_at(user, newest[user], hour) for (_, user), at in now.items()) for hour in hours
            )

        s.launcher.kill("processor-0")
        s.launcher.kill("worker-0")
        deadline = time.monotonic() + WAIT_SECONDS
        while not heard():
            assert time.monotonic() < deadline, stand()
            time.sleep(0.5)
        assert all(at - newest[user] >= DAY_MS for (_, user), at in stand().items()), "three days are heard"
