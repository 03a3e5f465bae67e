"""A proposal tried on the rows it was made from, by ingest's own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy.init.files import Looked
from deploy.operate.preflight import preflight_of
from deploy.operate.publish import router_of
from stream.replay.preflight import Refusals

if TYPE_CHECKING:
    from deploy.settings.config import Settings


class TrialResult(NamedTuple):
    """rows: judged. accepted: by modality. skipped: by reason. refused: by code."""

    rows: int
    accepted: Counter[str]
    skipped: Counter[str]
    refused: dict[str, Refusals]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rows": self.rows,
            "accepted": dict(self.accepted),
            "skipped": dict(self.skipped),
            "refused": {code: of._asdict() for code, of in self.refused.items()},
        }


def sorts(looked: Looked) -> bool:
    """Whether its rows must be merged by time to be replayed."""
    return len(looked.paths) > 1 or (looked.guess is not None and not looked.guess.in_order)


def try_out(settings: Settings, tables: Sequence[Looked], wall_ms: int) -> TrialResult:
    """Judge the rows of each table, on its topic, in the order they would be sent, as if there were no others."""
    total = TrialResult(0, Counter(), Counter(), {})
    for looked in tables:
        if looked.guess is None:
            continue
        preflight, router = preflight_of(settings), router_of(settings, looked.guess.topic)
        routed = [(row, router.route_row(row)) for row in looked.rows]
        if sorts(looked) or looked.source.live:
            routed.sort(key=lambda pair: pair[1].ts or 0)
        preflight.judge(routed, wall_ms, whole=True)
        for verdict in preflight.files.values():
            total.accepted.update(verdict.accepted)
            total.skipped.update(verdict.skipped)
            for code, found in verdict.refused.items():
                before = total.refused.get(code)
                total.refused[code] = found if before is None else before._replace(rows=before.rows + found.rows)
        total = total._replace(rows=total.rows + len(looked.rows))
    return total
