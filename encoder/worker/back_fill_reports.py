"""Tells how far the back-fills are: records of `{prefix}.back-fills`, metrics, log."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from encoder.worker.back_fill import TargetProgress
from encoder.worker.live_scenarios import LiveScenarios
from encoder.worker.targets import Target
from encoder.worker.transactions import Writers
from store.base import logs, metrics
from store.records.back_fill import BackFillRecord
from stream.topics import Topics

log = logs.get(__name__)

REPORT_SECONDS = 1.0
"""Between two records of one back-fill, but for its beginning and its end."""


class _Sent(NamedTuple):
    """at: seconds, monotonic."""

    record: BackFillRecord
    at: float


class BackFillReports:
    """Of one worker, for its thread. Records are queued for their partition; nothing is seen before the writers commit,
    so that a report is never followed by one of a former owner."""

    def __init__(
        self,
        writers: Writers,
        topics: Topics,
        scenarios: LiveScenarios,
        wall_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """wall_ms: milliseconds since the epoch, for people to read. clock: seconds, monotonic."""
        self._writers = writers
        self._topic = topics.back_fills
        self._scenarios = scenarios
        self._wall_ms = wall_ms
        self._clock = clock
        self._sent: dict[int, dict[str, _Sent]] = {}
        self._exported: set[str] = set()

    def report(self, progress: Mapping[int, Mapping[Target, TargetProgress]]) -> None:
        """Tell what has changed. progress: by partition, of those that are ready."""
        now, wall_ms = self._clock(), self._wall_ms()
        for partition, of in progress.items():
            sent = self._sent.setdefault(partition, {})
            records = self._records(partition, of, wall_ms)
            for name in sent.keys() - records.keys():
                self._writers.produce(partition, self._topic, None, sent.pop(name).record.key, to=0)
            for name, record in records.items():
                last = sent.get(name)
                if last is None or _worth_telling(last, record, now):
                    self._writers.produce(partition, self._topic, record.pack(), record.key, to=0)
                    sent[name] = _Sent(record, now)
                    _log(None if last is None else last.record, record)
        self._export(progress)

    def forget(self, partitions: Collection[int]) -> None:
        """These are somebody else's now."""
        for partition in partitions:
            self._sent.pop(partition, None)

    def _records(
        self, partition: int, progress: Mapping[Target, TargetProgress], wall_ms: int
    ) -> dict[str, BackFillRecord]:
        revision, asked = self._scenarios.revision, self._scenarios.asked
        out = {
            name: BackFillRecord(name, partition, registration, model, *of, wall_ms, revision(name), asked=asked(name))
            for (name, registration, model, _), of in progress.items()
        }
        for name, unusable in self._scenarios.unusable.items():
            out[name] = BackFillRecord(
                name, partition, unusable.registration, "", 0, 0, complete=False, updated_at=wall_ms,
                revision=revision(name), error=unusable.error, asked=asked(name),
            )  # fmt: skip
        return out

    def _export(self, progress: Mapping[int, Mapping[Target, TargetProgress]]) -> None:
        left: dict[str, int] = defaultdict(int)
        for of in progress.values():
            for target, (done, total, complete) in of.items():
                left[target.scenario] += 0 if complete else max(total - done, 0)
        for name, users in left.items():
            metrics.BACK_FILL_USERS_LEFT.labels(name).set(users)
        for name in self._exported - left.keys():
            metrics.BACK_FILL_USERS_LEFT.remove(name)
        self._exported = set(left)


def _worth_telling(last: _Sent, record: BackFillRecord, now: float) -> bool:
    same = replace(record, updated_at=last.record.updated_at)
    if same == last.record:
        return False
    only_further = replace(same, done=last.record.done, total=last.record.total) == last.record
    return not only_further or now - last.at >= REPORT_SECONDS


def _log(last: BackFillRecord | None, record: BackFillRecord) -> None:
    started = last is None or last.complete or last.model != record.model
    where = {"scenario": record.scenario, "partition": record.partition, "model": record.model}
    if not record.complete and not record.error and started:
        log.info(logs.BACK_FILL_STARTED, **where, done=record.done, users=record.total)
    elif record.complete and last is not None and not last.complete:
        log.info(logs.BACK_FILL_DONE, **where, users=record.done)
