"""Every embedding that is served: from the running service, else from its last snapshot on disk."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.service_client import Service, ServiceError
from deploy.verify import Records, Served
from store.errors import NotFoundError

if TYPE_CHECKING:
    from deploy.config import Settings

_PAGE = 1000


def load(settings: Settings, scenarios: Iterable[str], *, url: str | None = None) -> tuple[Records, str]:
    """All records of these scenarios, and where they come from, in words. About 300 bytes a record.

    Raises:
        NotFoundError: no service runs and there is no snapshot. ServiceError: `url` was given and does not answer.
    """
    names = list(scenarios)
    try:
        service = Service.find(settings, url)
        service.get("/livez")
    except ServiceError:
        if url is not None:
            raise
        return from_snapshot(settings, names), "the last snapshot on disk"
    return from_service(service, names), service.url


def from_service(service: Service, scenarios: Iterable[str]) -> Records:
    """Page by page over HTTP."""
    return {
        name: {
            record["user_id"]: Served(record["model"], int(record["as_of"]), _vector(record["vector"]))
            for record in service.embeddings(name)
        }
        for name in scenarios
    }


def from_snapshot(settings: Settings, scenarios: Iterable[str]) -> Records:
    """Out of `<data_dir>/serve`, as the service itself would load it.

    Raises:
        NotFoundError: there is no snapshot that can be trusted, or it lacks a scenario.
    """
    from deploy.brokers.files import read_json
    from deploy.brokers.state import IDENTITY_FILE
    from store.snapshot import SnapshotStore, Wanted

    data_dir = settings.store.data_dir.absolute()
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
                of[record.user_id] = Served(record.model, record.as_of, record.vector.astype(np.float16))
            after = page[-1].record.user_id
    return records


def _vector(value: Any) -> NDArray[np.float16]:
    """A list of numbers, or base64 of little-endian float16."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), "<f2")
    return np.asarray(value, np.float16)
