"""Embedding records of refreshed users, produced on behalf of their partition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from encoder.worker.targets import Target
from encoder.worker.transactions import Writers
from store.base import metrics
from store.records.embedding import EmbeddingRecord
from store.window.user_window import UserWindow
from stream.topics import Topics


class Publisher:
    """Writes `embeddings.<scenario>`; nothing is seen before the writers commit. For one thread. now: epoch ms."""

    def __init__(self, writers: Writers, topics: Topics, now: Callable[[], int]) -> None:
        self._writers = writers
        self._topics = topics
        self._now = now

    def publish(
        self,
        partition: int,
        windows: Sequence[UserWindow],
        targets: Sequence[Target],
        vectors: NDArray[np.float32],
    ) -> None:
        """Queue the records of users of one partition. vectors: (users, targets, dim)."""
        computed_at = self._now()
        for j, (scenario, registration, model, _) in enumerate(targets):
            topic = self._topics.embeddings(scenario)
            for i, window in enumerate(windows):
                record = EmbeddingRecord(
                    user_id=window.user_id,
                    scenario=scenario,
                    model=model,
                    as_of=window.as_of,
                    ingested_at=window.ingested_at,
                    computed_at=computed_at,
                    vector=vectors[i, j],
                    covers=window.covers,
                    events=window.events,
                    registration=registration,
                    newest_event=window.newest_event,
                )
                self._writers.produce(partition, topic, record.pack(), window.user_id.encode())
            metrics.EMBEDDINGS_PUBLISHED.labels(scenario).inc(len(windows))

    def erase(self, partition: int, users: Sequence[str], targets: Sequence[Target]) -> None:
        """Queue null records: nothing is known of these users any more."""
        for target in targets:
            topic = self._topics.embeddings(target.scenario)
            for user in users:
                self._writers.produce(partition, topic, None, user.encode())
