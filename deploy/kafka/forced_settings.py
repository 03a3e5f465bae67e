"""What a managed cluster may force on our topics: which settings may differ from those asked for, and how. Pure."""

from __future__ import annotations

from stream.topics import DAY_MS, HOUR_MS

UNLIMITED = -1
SHORTEST_EVENTS_MS = DAY_MS
"""Of `events`: what a role may be away for."""
SHORTEST_LETTERS_MS = HOUR_MS
SHORTEST_BRIEF_MS = 60_000
"""Of questions and answers, which somebody waits for."""
WISHES = frozenset({"retention.ms", "max.message.bytes"})
"""May be left out where a policy refuses them at creation; what the broker then says is judged like any other."""
_AT_LEAST = {
    "delete.retention.ms": "deletions are kept longer",
    "min.compaction.lag.ms": "it is compacted later",
    "max.message.bytes": "larger messages fit",
}


def tolerated(key: str, wanted: str, found: str) -> str | None:
    """What a setting that differs means where that is safe; None where it is not."""
    try:
        asked, has = int(wanted), int(found)
    except ValueError:
        return None
    if key in _AT_LEAST:
        return _AT_LEAST[key] if has >= asked else None
    if key != "retention.ms":
        return None
    if has == UNLIMITED or (asked != UNLIMITED and has >= asked):
        return "messages are kept longer"
    if asked == UNLIMITED:
        return f"refused events are gone {_span(has)} after" if has >= SHORTEST_LETTERS_MS else None
    if asked <= HOUR_MS:
        return "messages are kept for a shorter time" if has >= SHORTEST_BRIEF_MS else None
    return f"a role that is away for {_span(has)} loses messages" if has >= SHORTEST_EVENTS_MS else None


def own_setting(key: str, found: str) -> str | None:
    """A setting of ours that mends what the topic's own may not; None where there is none."""
    return f"kafka.dead_letter_max_bytes = {found}" if key == "max.message.bytes" else None


def _span(ms: int) -> str:
    return f"{ms / DAY_MS:.3g} days" if ms >= 2 * DAY_MS else f"{ms / HOUR_MS:.3g} hours"
