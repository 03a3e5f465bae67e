"""What a check of `anchorstream doctor` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is; only `fail` keeps the system from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. action: what to do; empty if there is nothing to do."""

    name: str
    level: Level
    detail: str
    action: str = ""

    def to_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)
