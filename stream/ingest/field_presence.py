"""How many of the last events carried each configured field: a gauge, and a warning a minute of those that none did.

A producer that renames a field makes no error: the text is only poorer, the number only absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from store.base import logs, metrics
from stream.events.content import Content, names

SECONDS = 60.0
FEW = 20
"""Events; of fewer it says nothing."""
log = logs.get(__name__)


class FieldPresence:
    """Looks at what was counted, every SECONDS. `clock` gives seconds."""

    def __init__(self, contents: Mapping[str, Content], clock: Callable[[], float]) -> None:
        self._contents = contents
        self._clock = clock
        self._next = clock() + SECONDS

    def look(self) -> None:
        """Report and begin anew, if it is time; a modality of which few events came goes on counting."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + SECONDS
        for modality, content in self._contents.items():
            if content.judged < FEW:
                continue
            for field in content.fields:
                present = (content.judged - content.missing[field]) / content.judged
                metrics.FIELD_PRESENT.labels(modality, field).set(present)
            if never := [field for field in content.fields if content.missing[field] == content.judged]:
                log.warning(
                    logs.FIELDS_MISSING,
                    modality=modality,
                    events=content.judged,
                    missing=never,
                    seen=names(content.incomplete),
                )
            content.forget()
