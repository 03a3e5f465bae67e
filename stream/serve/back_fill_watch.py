"""When a back-fill is over for those who query: the workers are done, and everything they published is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from store.base import logs, metrics
from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog
from store.records.scenario import Registered, other_query
from store.records.scenario_name import split

log = logs.get(__name__)

Ends = Mapping[str, Mapping[int, int]]
"""scenario → partition → end of its topic."""


class _Awaited(NamedTuple):
    entry: Registered
    models: frozenset[str]
    ends: Mapping[int, int]


class BackFillWatch:
    """Confirms what the board says is done, and knows which scenarios count for freshness. For the tail's thread.

    Configured scenarios count always, candidates' never; a registered one from the end of its first back-fill until it
    is retired: before, users whom nothing happens to have no row. One that a worker cannot compute (its soft prompt is
    missing) does not count: nothing will cover its events.

    Args:
        ends: asks the broker where the topics of these scenarios end.
    """

    def __init__(self, board: BackFillBoard, catalog: Catalog, ends: Callable[[Iterable[str]], Ends]) -> None:
        self._board = board
        self._catalog = catalog
        self._ends = ends
        self._awaited: dict[str, _Awaited] = {}
        self._counting: dict[str, int] = {}
        self._look = True
        self._other_query: dict[str, tuple[int, ...]] = {}

    def changed(self) -> None:
        """A report came, or a scenario came or went: look at all of them in the next `step`."""
        self._look = True

    def reopen(self, name: str) -> None:
        """Its index has been emptied: what is done is to be confirmed again."""
        self._awaited.pop(name, None)
        self._board.reopen(name)
        self._look = True

    def step(self) -> bool:
        """Whether `counting` may have changed. Raises what `ends` does; nothing is lost then."""
        looked = self._look
        if looked:
            self._await()
            self._tell_other_queries()
            self._look = False
        confirmed = False
        for name, awaited in list(self._awaited.items()):
            served = self._catalog.get(name)
            if served is None or served.entry != awaited.entry:
                del self._awaited[name]
                continue
            applied = served.index.applied()
            if all(applied.get(partition, 0) >= end for partition, end in awaited.ends.items()):
                del self._awaited[name]
                self._board.confirm(name, awaited.entry, awaited.models)
                self._counting[name] = awaited.entry.registration
                confirmed = True
        return looked or confirmed

    def counting(self) -> tuple[str, ...]:
        """The scenarios that must cover an event."""
        return tuple(
            name
            for name, served in self._catalog.now().items()
            if not split(name)[1]
            and (not served.registered or self._counting.get(name) == served.entry.registration)
            and not self._board.unusable(name, served.entry)
        )

    def _tell_other_queries(self) -> None:
        """Once each time it changes."""
        now = self._catalog.now().items()
        found = {name: of for name, served in now if (of := self._board.other_query(name, served.entry))}
        for name, partitions in found.items():
            if self._other_query.get(name) != partitions:
                log.warning(
                    logs.QUERY_DIFFERS,
                    scenario=name,
                    partitions=list(partitions),
                    detail=other_query(name, partitions),
                )
            metrics.OTHER_QUERY.labels(name).set(1)
        for name in self._other_query.keys() - found.keys():
            metrics.OTHER_QUERY.remove_by_labels({"scenario": name})
        self._other_query = found

    def _await(self) -> None:
        done: dict[str, tuple[Registered, frozenset[str]]] = {}
        for name, served in self._catalog.now().items():
            models = self._board.reported_done(name, served.entry)
            if models is not None and not self._board.confirmed(name, served.entry, models):
                done[name] = served.entry, models
        new = [name for name, found in done.items() if self._awaited.get(name, ((), ()))[:2] != found]
        if new:
            ends = self._ends(new)
            self._awaited |= {name: _Awaited(*done[name], ends[name]) for name in new}
