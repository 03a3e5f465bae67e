"""Real weights, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.brokers import local
from deploy.settings.config import load
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.conftest import need_kafka
from tests.support.behaviour import CONFIG


@pytest.fixture(autouse=True)
def _needs_kafka() -> None:
    need_kafka()


@pytest.fixture(scope="session", autouse=True)
def _patience_with_kafka() -> Iterator[None]:
    """A JVM that starts on a machine where three runs go on at once takes more than a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "START_SECONDS", 300.0)
        yield


@pytest.fixture(scope="session")
def texts() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory, texts: TextEncoder) -> UserEncoder:
    path = tmp_path_factory.mktemp("config") / "a.toml"
    path.write_text(CONFIG.format(bootstrap="local", partitions=2, data_dir="unused"))
    settings = load(path)
    return UserEncoder(settings.model, settings.modalities, settings.scenarios, texts.dim)
