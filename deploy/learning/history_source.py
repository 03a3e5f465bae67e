"""Where a command's history comes from: files, the panel that comes with the demo, or the running system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deploy.settings.config import Settings
from encoder.learning.windows import Windows
from store.base.errors import ConfigError, NotFoundError

Show = Callable[[float, str], object]


class HistorySource(NamedTuple):
    """files: of events; none and no data = the running system's `tokens`. data: a data set by name. topic: raw topic
    of the files' rows."""

    files: tuple[Path, ...]
    data: str | None
    topic: str | None

    def check(self) -> None:
        """Raises ConfigError: two histories. NotFoundError: a file is not there."""
        if self.files and self.data:
            raise ConfigError("--history and --data are two histories", action="give one of them")
        for file in self.files:
            if not file.is_file():
                raise NotFoundError(f"{file} is not there", action="check its name")


class Loaded(NamedTuple):
    """without_text: events that have left their windows, whose texts are gone."""

    windows: Windows
    without_text: int = 0


def load_windows(settings: Settings, source: HistorySource, show: Show) -> Loaded:
    """The history's windows. Raises as `load_history`, `load_topic_history`, `complete_journey.load_data_set`."""
    if source.data is not None:
        from deploy.learning import complete_journey

        return Loaded(complete_journey.load_data_set(settings, show).windows)
    without_text = 0
    if source.files:
        from deploy.learning.file_history import load_history

        history = load_history(settings, source.files, source.topic, lambda events: show(0.5, f"{events:,} events"))
    else:
        from deploy.learning.topic_history import load_topic_history

        history, without_text = load_topic_history(settings, show)
    return Loaded(Windows(history, int(settings.processor.expiry_granularity_seconds * 1000)), without_text)
