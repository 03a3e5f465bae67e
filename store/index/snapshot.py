"""Snapshots of the indexes in `<data_dir>/serve/`, so that a restart reads only the tail of the topics.

A snapshot is fuzzy and still right: the offsets are taken first and the rows copied afterwards, in chunks, while writes
go on. Rows newer than the offsets are read again from the topic and change nothing (last write wins by offset).

    frame 0        msgpack {identity, created_at, scenarios: {name: [dim, topic_id, applied, models, users,
                   registration]}}; files of before have no registration: all scenarios were configured
    row frames     msgpack ["rows", scenario, users, partitions, offsets, metas, vectors]
    per scenario   msgpack ["tombstones", scenario, {user: [partition, offset, covers, erased_at]}], after its rows

The rows of a scenario that has been retired, or registered anew since, are left out. A snapshot that cannot be trusted
is refused with its reason and the topic is read from the beginning: a file that is not whole, of another format or
broker, older than the topic keeps deletions (erased users would return), or at offsets that the topic does not have.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from store.base import logs
from store.base.files import sweep
from store.index import frames
from store.index.frames import FrameError
from store.index.index import ScenarioIndex, Tombstone
from store.index.row_table import RowChunk
from store.records.embedding import DIM
from store.records.scenario import CONFIGURED

FORMAT = 1
MAGIC = b"ANCHRIDX"
CHUNK_ROWS = 4096
"""Rows copied under one hold of the index's lock: under a millisecond."""
KEEP = 2
_NAME = re.compile(r"snapshot-([0-9]{1,18})\.bin")
MAX_AGE_MS = 7 * 86_400_000
"""`delete.retention.ms` of the topics (stream/topics.py): a reader away for longer may have missed a deletion."""
log = logs.get(__name__)


class ScenarioHeader(NamedTuple):
    """Where one scenario's index stood. topic_id: "" if the broker has none. applied: next offset per partition."""

    dim: int
    topic_id: str
    applied: dict[int, int]
    models: dict[str, int]
    users: int
    registration: int = CONFIGURED


class Header(NamedTuple):
    """What a snapshot says of itself. identity: of the broker. created_at: ms."""

    identity: str
    created_at: int
    scenarios: dict[str, ScenarioHeader]


class Wanted(NamedTuple):
    """What an index out of a snapshot must be."""

    dim: int = DIM
    registration: int = CONFIGURED


@dataclass(frozen=True, slots=True)
class Written:
    """A durable snapshot: everything below `applied` [scenario][partition] is in it."""

    path: Path
    size: int
    applied: dict[str, dict[int, int]]
    seconds: float


class SnapshotStore:
    """The snapshots of one data directory. Writing is for one thread at a time; it may run beside the tail.

    Args:
        directory: made if missing.
        identity: of the broker the indexes were read from; a snapshot of another is refused.
    """

    def __init__(self, directory: Path, *, identity: str, max_age_ms: int = MAX_AGE_MS) -> None:
        self.directory = directory
        self.identity = identity
        self.max_age_ms = max_age_ms

    def paths(self) -> list[Path]:
        """Snapshots, newest first. What is not named as ours are is not ours."""
        named = ((_NAME.fullmatch(path.name), path) for path in self.directory.glob("snapshot-*.bin"))
        ours = ((int(name[1]), path) for name, path in named if name is not None)
        return [path for _, path in sorted(ours, reverse=True)]

    def tidy(self) -> None:
        """Remove what an end in the middle of writing left behind, and all but the newest snapshots.

        What cannot be removed is told in the log, and tried again the next time.
        """
        leftovers = partial(sweep, self.directory, "snapshot-*.bin")
        removals: list[Callable[[], object]] = [leftovers, *(path.unlink for path in self.paths()[KEEP:])]
        for remove in removals:
            try:
                remove()
            except OSError as exc:
                log.warning(logs.SNAPSHOT_NOT_REMOVED, path=str(exc.filename), reason=str(exc))

    def write(self, indexes: Mapping[str, ScenarioIndex], *, topic_ids: Mapping[str, str], now_ms: int) -> Written:
        """Write a snapshot and remove all but the newest two. Raises OSError; older snapshots are then untouched."""
        started = time.monotonic()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.tidy()
        # step 1: offsets
        positions = {
            name: ScenarioHeader(
                index.dim, topic_ids.get(name, ""), index.applied(), index.models(), len(index), index.registration
            )
            for name, index in indexes.items()
        }
        header = Header(self.identity, now_ms, positions)
        # step 2: everything that was applied by then, and perhaps more
        newest = self.paths()[:1]
        number = 1 + max([now_ms, *(int(path.stem.removeprefix("snapshot-")) for path in newest)])
        path = self.directory / f"snapshot-{number:016d}.bin"
        size = frames.write_frames(path, MAGIC, FORMAT, _frames(header, indexes))
        # step 3: older ones may go
        self.tidy()
        seconds = time.monotonic() - started
        log.debug(logs.SNAPSHOT_WRITTEN, path=path.name, bytes=size, seconds=round(seconds, 3))
        return Written(path, size, {name: position.applied for name, position in positions.items()}, seconds)

    def load(
        self, scenarios: Mapping[str, Wanted], *, now_ms: int, accept: Callable[[Header], str]
    ) -> dict[str, ScenarioIndex]:
        """Indexes out of the newest snapshot that can be trusted; {} if there is none. Refusals are logged.

        Args:
            scenarios: others in the snapshot are left out, and those of another registration; what it does not have
                is not returned.
            accept: the reason why the positions (of those wanted) do not fit the topics, "" if they do.
        """
        self.tidy()
        for path in self.paths():
            try:
                indexes = self._read(path, scenarios, now_ms, accept)
            except Exception as exc:  # whatever is wrong with a copy, the topics have it all
                log.warning(logs.SNAPSHOT_REFUSED, path=path.name, reason=str(exc) or repr(exc))
                continue
            users = {name: len(index) for name, index in indexes.items()}
            log.info(logs.SNAPSHOT_LOADED, path=path.name, users=users)
            return indexes
        return {}

    def _read(
        self, path: Path, scenarios: Mapping[str, Wanted], now_ms: int, accept: Callable[[Header], str]
    ) -> dict[str, ScenarioIndex]:
        content = frames.read_frames(path, MAGIC, FORMAT)
        header = _unpack_header(next(content, b""))
        found = {
            name: position
            for name, position in header.scenarios.items()
            if name in scenarios and scenarios[name].registration == position.registration
        }
        header = header._replace(scenarios=found)
        if refused := self._refusal(header, scenarios, now_ms) or accept(header):
            raise FrameError(refused)
        indexes = {
            name: ScenarioIndex(
                name, dim=position.dim, capacity=max(1024, position.users), registration=position.registration
            )
            for name, position in found.items()
        }
        for payload in content:
            kind, name, *rest = msgpack.unpackb(payload)
            if name not in indexes:
                continue
            if kind == "rows":
                indexes[name].restore_rows(_unpack_rows(rest, indexes[name].dim))
            else:
                tombstones = {user: Tombstone(*values) for user, values in rest[0].items()}
                indexes[name].restore_tombstones(tombstones, found[name].applied)
        return indexes

    def _refusal(self, header: Header, scenarios: Mapping[str, Wanted], now_ms: int) -> str:
        if header.identity != self.identity:
            return f"written for broker {header.identity}, this is {self.identity}"
        age = now_ms - header.created_at
        if age > self.max_age_ms:
            return f"{age // 3_600_000} h old: the topics keep deletions for {self.max_age_ms // 3_600_000} h only"
        for name, position in header.scenarios.items():
            if position.dim != scenarios[name].dim:
                return f"{name} has dim {position.dim} instead of {scenarios[name].dim}"
        return ""


def _frames(header: Header, indexes: Mapping[str, ScenarioIndex]) -> Iterator[bytes]:
    yield msgpack.packb(
        {
            "identity": header.identity,
            "created_at": header.created_at,
            "scenarios": {name: list(position) for name, position in header.scenarios.items()},
        }
    )
    for name, index in indexes.items():
        start = 0
        while (chunk := index.copy_rows(start, start + CHUNK_ROWS)) is not None:
            start += CHUNK_ROWS
            yield msgpack.packb(
                [
                    "rows",
                    name,
                    chunk.users,
                    chunk.partitions.astype("<i4").tobytes(),
                    chunk.offsets.astype("<i8").tobytes(),
                    chunk.metas,
                    chunk.vectors.astype("<f4").tobytes(),
                ]
            )
        # after the rows: a user erased meanwhile is in both, and the tombstone wins
        yield msgpack.packb(["tombstones", name, index.copy_tombstones()])


def _unpack_header(payload: bytes) -> Header:
    raw: dict[str, Any] = msgpack.unpackb(payload, strict_map_key=False)
    scenarios = {name: ScenarioHeader(*values) for name, values in raw["scenarios"].items()}
    return Header(raw["identity"], raw["created_at"], scenarios)


def _unpack_rows(rest: list[Any], dim: int) -> RowChunk:
    users, partitions, offsets, metas, vectors = rest
    return RowChunk(
        users,
        np.frombuffer(partitions, "<i4").astype(np.int32),
        np.frombuffer(offsets, "<i8").astype(np.int64),
        metas,
        np.frombuffer(vectors, "<f4").astype(np.float32).reshape(len(users), dim),
    )
