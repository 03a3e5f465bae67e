"""Labels out of a file: `user_id, ts, label`, in any format that `replay` takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from deploy.settings.config import Settings
from encoder.learning.tuning.labels import UNUSABLE, Label
from store.base.errors import ConfigError
from stream.events.event_time import EventTime
from stream.events.refused import Refused
from stream.replay.open_files import open_rows
from stream.replay.row_file import Row
from stream.settings import MappingSettings

COLUMNS = ("user_id", "ts", "label")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WHOLE = re.compile(r"-?[0-9]+\.0+")


def read_labels(
    file: Path, mapping: MappingSettings, zone: str, on_progress: Callable[[int], object] = lambda rows: None
) -> Iterator[Label]:
    """The labels of a file, one by one.

    Args:
        mapping: how times are written, as in the events' raw topic; numbers may be texts, as CSV has them.
        zone: of times that are days: these begin at its midnight.

    Raises:
        ConfigError: labels_unusable: a row cannot be read; it is named. NotFoundError: there is no such file.
        AnchorstreamError: file_unreadable.
    """
    times = EventTime(mapping.model_copy(update={"numbers_from_text": True}))
    to_json = msgspec.json.Decoder().decode
    with open_rows(str(file)) as rows:
        for done, row in enumerate(rows, start=1):
            if row.value is None:
                raise _unusable(row, row.fault)
            found = to_json(row.value)
            if not isinstance(found, dict) or (missing := [name for name in COLUMNS if found.get(name) in (None, "")]):
                has = ", ".join(found) if isinstance(found, dict) else "no columns"
                raise _unusable(row, f"has no {' and no '.join(missing)} (it has {has})")
            try:
                yield Label(_user(found["user_id"]), _time(found["ts"], times, zone), _label(found["label"]))
            except (Refused, ValueError) as exc:
                raise _unusable(row, str(exc)) from exc
            if done % 10_000 == 0:
                on_progress(done)


def _user(value: Any) -> str:
    """As a mapping of integers has it: 17850.0 is 17850."""
    text = str(value)
    return text.split(".")[0] if isinstance(value, float) and _WHOLE.fullmatch(text) else text


def _time(value: Any, times: EventTime, zone: str) -> int:
    if isinstance(value, str) and _DAY.fullmatch(text := value.strip()):
        day = date.fromisoformat(text)
        return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()) * 1000
    return times.of(value)


def _label(value: Any) -> str:
    """`true`, 1 and 1.0 are "1"."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    text = str(value).strip()
    return text.split(".")[0] if _WHOLE.fullmatch(text) else {"true": "1", "false": "0"}.get(text.lower(), text)


def _unusable(row: Row, why: str) -> ConfigError:
    return ConfigError(
        f"{row.place}: {why}",
        action=f"a row of labels has {', '.join(COLUMNS)}: a user, a time as the events have theirs (or a day), and "
        "0 or 1, or a class",
        code=UNUSABLE,
    )


def mapping_of(settings: Settings, topic: str | None) -> MappingSettings:
    """How times are written: as in that raw topic, or where none is named as in all of them, if they agree."""
    if topic is not None:
        return settings.mapping.get(topic, MappingSettings())
    topics = sorted({modality.topic for modality in settings.modalities.values()})
    found = [settings.mapping.get(each, MappingSettings()) for each in topics]
    same = all(_times_of(each) == _times_of(found[0]) for each in found)
    return found[0] if same else MappingSettings()


def _times_of(mapping: MappingSettings) -> tuple[Any, ...]:
    return mapping.ts_unit, mapping.ts_pattern, mapping.ts_zone, mapping.ts_local
