"""Every embedding that is served: from the running service, else from its last snapshot on disk."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.brokers.state_prefix import check_prefix
from deploy.operate.service_client import Service, ServiceError
from deploy.operate.verify import Records, Served
from store.base.errors import NotFoundError
from store.base.settings import ScenarioSettings
from store.records.scenario_name import split

if TYPE_CHECKING:
    from deploy.settings.config import Settings

_PAGE = 1000


class Everything(NamedTuple):
    """What is served: records per scenario, what each scenario is, and where this comes from, in words."""

    records: Records
    scenarios: dict[str, ScenarioSettings]
    source: str


def load(settings: Settings, scenario: str | None = None, *, url: str | None = None) -> Everything:
    """All records of one scenario, or of all: those registered and candidates' too. About 300 bytes a record.

    A snapshot alone does not tell the queries of registered scenarios, so there only those of the configuration count.

    Raises:
        NotFoundError: there is no such scenario; no service runs and there is no snapshot.
        ServiceError: `url` was given and does not answer.
    """
    configured = {name: settings.scenarios[split(name)[0]] for name in settings.scenario_names}
    try:
        service = Service.find(settings, url)
        service.get("/livez")
    except ServiceError as exc:
        if url is not None or exc.code == "other_topic_prefix":
            raise
        scenarios = _chosen(configured, scenario, "no service runs; of the configuration")
        return Everything(from_snapshot(settings, scenarios), scenarios, "the last snapshot on disk")
    listed = {
        name: ScenarioSettings(query=found["query"], prompt=found["prompt"])
        for name, found in service.scenarios().items()
    }
    scenarios = _chosen(listed, scenario, "the service has")
    return Everything(from_service(service, scenarios), scenarios, service.url)


def _chosen(known: dict[str, ScenarioSettings], scenario: str | None, whose: str) -> dict[str, ScenarioSettings]:
    if scenario is None:
        return known
    if scenario not in known:
        raise NotFoundError(f"unknown scenario {scenario!r}", action=f"{whose}: {', '.join(known)}")
    return {scenario: known[scenario]}


def from_service(service: Service, scenarios: Iterable[str]) -> Records:
    """Page by page over HTTP."""
    return {
        name: {
            record["user_id"]: Served(
                record["model"],
                int(record["as_of"]),
                _vector(record["vector"]),
                int(record.get("newest_event", record["as_of"])),
            )
            for record in service.embeddings(name)
        }
        for name in scenarios
    }


def from_snapshot(settings: Settings, scenarios: Iterable[str]) -> Records:
    """Out of `<data_dir>/serve`, as the service itself would load it.

    Raises:
        NotFoundError: there is no snapshot that can be trusted, or it lacks a scenario.
    """
    from deploy.brokers.state import IDENTITY_FILE
    from store.base.files import read_json
    from store.index.snapshot import SnapshotStore, Wanted

    data_dir = settings.store.data_dir.absolute()
    check_prefix(data_dir, settings.kafka.topic_prefix)
    state = read_json(data_dir / IDENTITY_FILE)
    store = SnapshotStore(data_dir / "serve", identity="" if state is None else str(state["identity"]))
    names = list(scenarios)
    indexes = store.load(dict.fromkeys(names, Wanted()), now_ms=int(time.time() * 1000), accept=lambda _header: "")
    if lacking := [name for name in names if name not in indexes]:
        raise NotFoundError(
            f"no service runs, and no snapshot in {data_dir / 'serve'} holds {', '.join(lacking)}",
            action="start the system with `anchorstream up`, or check store.data_dir",
        )
    records: dict[str, dict[str, Served]] = {}
    for name, index in indexes.items():
        of = records[name] = {}
        after = ""
        while page := index.page(after, _PAGE):
            for stored in page:
                record = stored.record
                of[record.user_id] = Served(
                    record.model, record.as_of, record.vector.astype(np.float16), record.newest_event
                )
            after = page[-1].record.user_id
    return records


def _vector(value: Any) -> NDArray[np.float16]:
    """A list of numbers, or base64 of little-endian float16."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), "<f2")
    return np.asarray(value, np.float16)
