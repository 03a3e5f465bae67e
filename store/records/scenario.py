"""Records of `{prefix}.scenarios` (compacted, key = scenario name): scenarios registered while the system runs.

A null value = retired. Scenarios of the configuration are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
from pydantic import ValidationError

from store.base.settings import ScenarioSettings

VERSION = 1
CONFIGURED = 0
"""Registration of a scenario of the configuration."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A scenario and which registration of its name it is.

    registration: ms, when the name was registered after it had not been; a changed query keeps it. Embedding records
    carry it, so that those of an earlier life of the name, erased users among them, are told apart.
    revision: where its record lies in the topic (offset + 1; not on the wire), 0 = configured. A later record of the
    name has a higher one: reports on a back-fill name it, so that one of an earlier query is not taken for the newest.
    """

    settings: ScenarioSettings
    registration: int = CONFIGURED
    revision: int = 0

    def pack(self) -> bytes:
        """Message value."""
        settings = self.settings
        return msgpack.packb(  # type: ignore[no-any-return]
            {"v": VERSION, "query": settings.query, "prompt": settings.prompt, "registration": self.registration}
        )

    @classmethod
    def unpack(cls, value: bytes) -> Registered:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        try:
            raw: dict[str, Any] = msgpack.unpackb(value)
            if raw["v"] != VERSION:
                raise ValueError(f"version {raw['v']}; this version reads {VERSION}")
            return cls(ScenarioSettings(query=raw["query"], prompt=raw["prompt"]), int(raw["registration"]))
        except (KeyError, TypeError, ValueError, ValidationError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a scenario record: {exc}") from exc
