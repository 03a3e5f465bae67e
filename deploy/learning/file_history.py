"""A history out of files, by their configuration: what ingest and processor would make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploy.brokers.kafka_jars import cache_dir
from deploy.settings.config import Settings
from encoder.learning.history import History, accepted_rows, collect, encoded
from encoder.learning.text_vectors import StoredTextVectors
from encoder.model.text_encoder import TextEncoder
from store.base.errors import ConfigError
from stream.replay.open_files import open_rows


def load_history(
    settings: Settings, files: Sequence[Path], topic: str | None, on_progress: Callable[[int], object]
) -> History:
    """All events of files, as ingest and processor would have them.

    Args:
        topic: raw topic that the rows are of; None = the configuration's only one.

    Raises:
        ConfigError: there are several topics. NotFoundError: there is no such file. WeightsError: the text encoder's
            weights are not installed.
    """
    topics_ = sorted({modality.topic for modality in settings.modalities.values()})
    if topic is None and len(topics_) > 1:
        raise ConfigError(f"the configuration has {len(topics_)} raw topics", action=f"--topic {'|'.join(topics_)}")
    of = topic or topics_[0]

    def rows() -> Iterator[tuple[str, bytes]]:
        for file in files:
            with open_rows(str(file)) as opened:
                for row in opened:
                    if row.value is not None:
                        yield of, row.value

    encoder = StoredTextVectors(TextEncoder(cache_entries=0), cache_dir())
    history = collect(
        encoded(accepted_rows(rows(), settings.modalities, settings.mapping, settings.ingest), encoder),
        settings.modalities, encoder.dim, on_progress,
    )  # fmt: skip
    encoder.save()
    return history
