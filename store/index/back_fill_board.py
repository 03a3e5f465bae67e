"""How far the back-fills are, as workers report it per partition; when one is over, here and for all its users."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

from store.records.back_fill import BackFillRecord
from store.records.scenario import Registered, asked


class BackFill(NamedTuple):
    """Of one scenario. partitions: the reports that count, by partition; others have not reported yet.

    done, total: users in those. complete: every partition's users are done, and queryable here.
    """

    done: int
    total: int
    complete: bool
    partitions: tuple[BackFillRecord, ...]


class BackFillBoard:
    """The newest report of every scenario and partition. Thread-safe.

    A report counts for a scenario if it is of its registration, and not of an earlier query (`revision`), nor of
    another one (`asked`), which a worker with another configuration computes.

    Args:
        partitions: that every scenario has.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._records: dict[str, dict[int, BackFillRecord]] = {}
        self._confirmed: dict[str, tuple[Registered, frozenset[str]]] = {}

    def put(self, record: BackFillRecord) -> None:
        """A worker's report. Raises ValueError for a partition that there is not."""
        if not 0 <= record.partition < self._partitions:
            raise ValueError(f"partition {record.partition} is not one of {self._partitions}")
        with self._lock:
            self._records.setdefault(record.scenario, {})[record.partition] = record
            if not record.complete:  # also of what was complete: its topic was made anew
                self._confirmed.pop(record.scenario, None)

    def forget(self, scenario: str, partition: int) -> None:
        """A report is void; no effect when there is none."""
        with self._lock:
            of = self._records.get(scenario, {})
            of.pop(partition, None)
            if not of:
                self._records.pop(scenario, None)

    def progress(self, name: str, entry: Registered) -> BackFill | None:
        """None while no worker has reported on this registration and query."""
        with self._lock:
            found = sorted(self._counting(name, entry), key=lambda record: record.partition)
            if not found:
                return None
            complete = self._confirmed.get(name) == (entry, self._done_by(found))
            return BackFill(sum(r.done for r in found), sum(r.total for r in found), complete, tuple(found))

    def reported_done(self, name: str, entry: Registered) -> frozenset[str] | None:
        """The models whose back-fill every partition's worker reports as done; None if one does not."""
        with self._lock:
            return self._done_by(list(self._counting(name, entry)))

    def unusable(self, name: str, entry: Registered) -> bool:
        """Whether some worker says that it cannot compute it."""
        with self._lock:
            return any(record.error for record in self._counting(name, entry))

    def other_query(self, name: str, entry: Registered) -> tuple[int, ...]:
        """Partitions whose worker computes another query or prompt for this scenario: its configuration is another."""
        with self._lock:
            found = self._of_this_life(name, entry)
            ours = asked(entry.settings)
            return tuple(sorted(record.partition for record in found if record.asked not in ("", ours)))

    def confirm(self, name: str, entry: Registered, models: frozenset[str]) -> None:
        """What was reported done by `reported_done` is queryable here."""
        with self._lock:
            self._confirmed[name] = entry, models

    def reopen(self, name: str) -> None:
        """What was confirmed is not queryable any more."""
        with self._lock:
            self._confirmed.pop(name, None)

    def confirmed(self, name: str, entry: Registered, models: frozenset[str]) -> bool:
        """Whether `confirm` was called with these."""
        with self._lock:
            return self._confirmed.get(name) == (entry, models)

    def _counting(self, name: str, entry: Registered) -> Iterator[BackFillRecord]:
        ours = asked(entry.settings)
        return (record for record in self._of_this_life(name, entry) if record.asked in ("", ours))

    def _of_this_life(self, name: str, entry: Registered) -> Iterator[BackFillRecord]:
        for record in self._records.get(name, {}).values():
            if record.registration == entry.registration and record.revision >= entry.revision:
                yield record

    def _done_by(self, found: list[BackFillRecord]) -> frozenset[str] | None:
        if len(found) < self._partitions or not all(record.complete for record in found):
            return None
        return frozenset(record.model for record in found)
