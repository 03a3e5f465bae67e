"""Waiting until what was published is queryable: in every scenario, whatever others publish meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from store.base.errors import AnchorstreamError, BrokerError
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.patience import patiently
from stream.lag.group_offsets import GroupOffsets
from stream.lag.left import Left, left
from stream.lag.log_ends import LogEnds
from stream.lag.reader import LagReader
from stream.lag.scenarios import LagScenarios
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.kafka.client import Connection

POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """left: as of the last reading, of all that anybody published. packs: of the events that are waited for, how many
    are not queryable in every scenario yet, of how many. seconds: since the waiting began."""

    left: Left
    packs: int
    of: int
    seconds: float

    @property
    def done(self) -> bool:
        """Whether all that is waited for is queryable."""
        return self.packs == 0

    @property
    def share(self) -> float:
        """0 to 1: of the time, where it is known what is left of it, else of the packs."""
        if self.left.seconds is not None and self.seconds + self.left.seconds > 0:
            return self.seconds / (self.seconds + self.left.seconds)
        return 1 - self.packs / max(self.of, 1)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        found = asdict(self) | {"left": self.left._asdict(), "done": self.done}
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}


def wait_queryable(
    settings: Settings,
    connection: Connection,
    stop: threading.Event,
    on_progress: Callable[[Progress], object],
    *,
    timeout_seconds: float | None = None,
) -> Progress:
    """Until everything that is in `events` now is queryable, `stop` is set, or the time is over.

    Serve commits below which offset of `events` all is queryable in every scenario; that is what is waited for.

    Raises:
        BrokerError: the broker did not answer.
    """
    topics = Topics(settings.kafka)
    raw = {modality.topic for modality in settings.modalities.values()}
    admin = LastingAdmin(connection)
    scenarios = LagScenarios(connection, topics, raw, settings.scenarios, settings.candidates)
    begun = time.monotonic()
    with (
        closing(scenarios),
        closing(LagReader(connection, scenarios.plan())) as lag,
        closing(GroupOffsets(connection, admin, timeout_seconds=TIMEOUT_SECONDS)) as groups,
    ):
        ends = _ends(connection, admin, topics)
        first = _uncovered(groups, topics, ends)
        while True:
            scenarios.refresh(lag)
            report = lag.read(max_age_seconds=0)
            packs = _uncovered(groups, topics, ends)
            now = Progress(left(report), packs, max(first, packs), time.monotonic() - begun)
            on_progress(now)
            over = timeout_seconds is not None and now.seconds >= timeout_seconds
            if now.done or over or stop.wait(POLL_SECONDS):
                return now


def not_queryable(progress: Progress) -> AnchorstreamError:
    """What to say when the time is over."""
    what = str(progress.left) or f"{progress.packs:,} packs of events are not queryable in every scenario"
    return AnchorstreamError(
        f"not everything was queryable after {progress.seconds:,.0f} s: {what}",
        action="nothing is lost, and it goes on: `anchorstream lag` tells how far it is, and which role stands still",
        code="not_queryable",
    )


def _ends(connection: Connection, admin: LastingAdmin, topics: Topics) -> dict[tuple[str, int], int]:
    places = {(topics.events, partition) for partition in range(topics.partitions)}
    log = LogEnds(connection, admin, timeout_seconds=TIMEOUT_SECONDS)
    try:
        marks = patiently(lambda: log.watermarks(places), threading.Event(), seconds=TIMEOUT_SECONDS)
    except KafkaException as exc:
        raise _unanswered(exc) from exc
    return {place: mark.end for place, mark in marks.items()}


def _uncovered(groups: GroupOffsets, topics: Topics, ends: dict[tuple[str, int], int]) -> int:
    """Messages of `events` below these ends that are not queryable."""
    found, failed = groups.committed({topics.group_freshness: list(ends)})
    if failed:
        raise _unanswered(failed[topics.group_freshness])
    committed = {place: commit.offset for place, commit in found[topics.group_freshness].items()}
    return sum(max(0, end - committed.get(place, 0)) for place, end in ends.items())


def _unanswered(exc: KafkaException) -> BrokerError:
    return BrokerError(
        f"the broker did not tell its offsets: {exc.args[0].str()}",
        action="check that it runs (`anchorstream doctor`); what was published is safe",
    )
