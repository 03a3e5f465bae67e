"""When to write a snapshot, and its writing beside the tail. For the tail's thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from store.base import logs, metrics
from store.index.index import ScenarioIndex
from store.index.snapshot import KEEP, SnapshotStore, Written

log = logs.get(__name__)


class Snapshotter:
    """Writes a snapshot when there is something to save and the interval has passed, or enough was read.

    Args:
        indexes: by scenario; changed by the tail's thread only.
        interval_seconds: between the beginnings of two snapshots.
        max_bytes: begin one earlier when this much has been read since the last; None = never earlier.
    """

    def __init__(
        self,
        store: SnapshotStore,
        indexes: Mapping[str, ScenarioIndex],
        *,
        interval_seconds: float,
        max_bytes: int | None = None,
    ) -> None:
        self.durable: dict[str, dict[int, int]] = {}
        """{scenario: {partition: next offset}} of the newest snapshot on disk."""
        self.topic_ids: Mapping[str, str] = {}
        self._store = store
        self._indexes = indexes
        self._interval = interval_seconds
        self._max_bytes = max_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._writing: Future[Written] | None = None
        self._begun_at = float("-inf")
        self._bytes = 0
        self._rewrites = 0
        self._rewriting = 0

    def read(self, size: int) -> None:
        """So many bytes of records were read."""
        self._bytes += size

    def retired(self, scenario: str) -> None:
        """Its index is gone, and its rows are to leave the disk."""
        self.durable = {name: applied for name, applied in self.durable.items() if name != scenario}
        self.erased()

    def erased(self) -> None:
        """Rows were erased: as many snapshots follow as are kept, so that none holds those rows for long."""
        self._rewrites = KEEP

    def step(self, *, now: float, now_ms: int) -> None:
        """Finish or begin a snapshot, if due; does not wait.

        Args:
            now: monotonic seconds. now_ms: wall clock.
        """
        if self._writing is not None:
            if not self._writing.done():
                return
            self._finish(self._writing)
        due = now >= self._begun_at + self._interval
        full = self._max_bytes is not None and self._bytes >= self._max_bytes
        if (due or full) and self._wanted():
            self._begun_at = now
            self._writing = self._begin(now_ms)

    def finish(self, *, now_ms: int) -> None:
        """Wait for the one being written, then write a last one if anything is unsaved."""
        if self._writing is not None:
            self._finish(self._writing)
        while self._wanted() and self._finish(self._begin(now_ms)):
            pass

    def close(self) -> None:
        """Let the one being written end."""
        self._executor.shutdown()

    def _wanted(self) -> bool:
        return self._rewrites > 0 or any(
            self.durable.get(name) != index.applied() for name, index in self._indexes.items()
        )

    def _begin(self, now_ms: int) -> Future[Written]:
        self._bytes = 0
        self._rewriting = min(1, self._rewrites)
        self._rewrites -= self._rewriting
        for index in self._indexes.values():
            index.prune_tombstones(before_ms=now_ms - self._store.max_age_ms)
        return self._executor.submit(self._store.write, dict(self._indexes), topic_ids=self.topic_ids, now_ms=now_ms)

    def _finish(self, writing: Future[Written]) -> bool:
        """Whether it succeeded. A failure costs a restart some time, and nothing else: it is told and tried again."""
        self._writing = None
        try:
            self.durable = writing.result().applied
        except Exception as exc:
            metrics.SNAPSHOT_FAILURES.inc()
            self._rewrites = min(KEEP, self._rewrites + self._rewriting)
            log.error(
                logs.SNAPSHOT_FAILED,
                directory=str(self._store.directory),
                reason=str(exc) or repr(exc),
                action="free space or fix permissions there; nothing is lost, it is tried again",
                exc_info=None if isinstance(exc, OSError) else exc,
            )
            return False
        return True
