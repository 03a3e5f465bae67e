"""Files judged by the rules of a configuration before they are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from deploy.checks.in_force import JUDGING, RESTART, named, not_in_force
from store.base.errors import AnchorstreamError
from stream.kafka.partitioner import murmur2
from stream.replay.order import Merging, routed
from stream.replay.preflight import SAMPLE_ROWS, Preflight
from stream.replay.replay import Outgoing, ReplayProgress, Router
from stream.replay.row_file import Row, RowFile
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings

_TICK_EVERY = 256


def check_in_force(settings: Settings) -> None:
    """The roles that run here judge by these settings, so that what is said of a file is what will become of it.

    Raises:
        AnchorstreamError: `up` was started with others (`settings_not_in_force`).
    """
    if other := not_in_force(settings, JUDGING):
        raise AnchorstreamError(
            f"nothing was sent: the running `anchorstream up` was started with other settings, and judges by those: "
            f"{named(other)}",
            action=f"{RESTART}; --force sends all the same",
            code="settings_not_in_force",
        )


def judge_samples(
    settings: Settings, files: Sequence[RowFile], router: Router, *, skip: Sequence[int] = (), by_time: bool = False
) -> Preflight:
    """The first rows of each file behind those to skip, each file for itself.

    by_time: they will be sent in the order of their times.
    """
    preflight = preflight_of(settings)
    for number, file in enumerate(files):
        sample = file.sample(SAMPLE_ROWS, skip=skip[number] if skip else 0)
        rows = [(row, router.route_row(row)) for row in sample]
        if by_time:
            rows.sort(key=_time)
        preflight.judge(rows, _now_ms(), whole=len(sample) < SAMPLE_ROWS)
    return preflight


def judge_all(
    settings: Settings,
    files: Sequence[RowFile],
    router: Router,
    *,
    merge: Merging | None,
    progress: ReplayProgress,
    tick: Callable[[], object],
) -> Preflight:
    """All rows, in the order they would be sent. tick: called now and then; what it raises ends the reading."""

    def rows() -> Iterator[tuple[Row, Outgoing]]:
        for index, (_, row, message) in enumerate(routed(files, router, progress, merge=merge, tick=tick)):
            if index % _TICK_EVERY == 0:
                tick()
            yield row, message

    preflight = preflight_of(settings)
    preflight.judge(rows(), _now_ms(), whole=True)
    return preflight


def preflight_of(settings: Settings) -> Preflight:
    """Of a configuration; nothing is judged yet."""
    count = settings.kafka.partitions
    return Preflight(
        settings.modalities,
        settings.mapping,
        settings.ingest,
        partition_of=lambda key: 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % count,
        dead_letters=Topics(settings.kafka).dead_letters,
    )


def _now_ms() -> int:
    return int(time.time() * 1000)


def _time(routed: tuple[Row, Outgoing]) -> int:
    return routed[1].ts or 0
