"""Records of `{prefix}.scenarios` (compacted, key = scenario name): scenarios registered while the system runs.

A null value = retired. Scenarios of the configuration are not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from pydantic import ValidationError

from store.base import versioned
from store.base.settings import ScenarioSettings

CONFIGURED = 0
"""Registration of a scenario of the configuration."""


class _Wire(msgspec.Struct, frozen=True, tag_field="v", tag=1):
    query: str
    prompt: str | None
    registration: int


def asked(settings: ScenarioSettings) -> str:
    """What a scenario asks, in 16 characters: equal for the same query and prompt, in whatever process."""
    text = f"{settings.query}\0{settings.prompt or ''}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def other_query(name: str, partitions: Iterable[int]) -> str:
    """For people: what workers report of a scenario is not what is configured here."""
    return (
        f"{name}: the workers of partitions {', '.join(map(str, partitions))} compute another query or prompt than is "
        "configured here: start anew whichever has the old configuration"
    )


_DECODER = msgspec.msgpack.Decoder(_Wire)


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
        return msgspec.msgpack.encode(_Wire(self.settings.query, self.settings.prompt, self.registration))

    @classmethod
    def unpack(cls, value: bytes) -> Registered:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        found = versioned.decode(_DECODER, value, "a scenario record")
        try:
            return cls(ScenarioSettings(query=found.query, prompt=found.prompt), found.registration)
        except ValidationError as exc:
            raise ValueError(f"not a scenario record: {exc}") from exc
