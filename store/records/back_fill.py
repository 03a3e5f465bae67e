"""Records of `{prefix}.back-fills` (compacted, key = "scenario|partition"): how far a worker's back-fill has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack

VERSION = 1
_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool}


@dataclass(frozen=True, slots=True)
class BackFillRecord:
    """Of one scenario in one partition.

    registration: see store/records/scenario.py. model: id of the model that the users are brought to.
    done, total: users; total as counted when the back-fill began. complete: nothing is left.
    updated_at: ms. revision: of the scenario, as the worker knew it (store/records/scenario.py).
    error: why the worker cannot compute the scenario at all, `code: detail`; then model is "" and nobody is refreshed.
    """

    scenario: str
    partition: int
    registration: int
    model: str
    done: int
    total: int
    complete: bool
    updated_at: int
    revision: int = 0
    error: str = ""

    @property
    def key(self) -> bytes:
        """Message key."""
        return f"{self.scenario}|{self.partition}".encode()

    def pack(self) -> bytes:
        """Message value."""
        return msgpack.packb({"v": VERSION, **asdict(self)})  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, value: bytes) -> BackFillRecord:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        try:
            raw: dict[str, Any] = msgpack.unpackb(value)
            if raw["v"] != VERSION:
                raise ValueError(f"version {raw['v']}; this version reads {VERSION}")
            names = cls.__dataclass_fields__.keys() - {"revision", "error"}
            later = {"revision": raw.get("revision", 0), "error": raw.get("error", "")}
            found = cls(**{name: raw[name] for name in names}, **later)
            if wrong := [f.name for f in fields(cls) if type(getattr(found, f.name)) is not _TYPES[str(f.type)]]:
                raise TypeError(f"of another type: {', '.join(wrong)}")
            return found
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a back-fill record: {exc}") from exc
