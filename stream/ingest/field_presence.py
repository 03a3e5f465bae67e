"""How many of the last events carried each configured field: a gauge, counts for serve, and a warning a minute of those
that none did.

A producer that renames a field makes no error: the text is only poorer, the number only absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from store.base import logs, metrics
from stream.events.content import Content
from stream.events.field_counts import OfModality
from stream.events.field_names import names

SECONDS = 60.0
FEW = 20
"""Events; of fewer it says nothing."""
log = logs.get(__name__)


class FieldPresence:
    """Looks at what was counted, every SECONDS.

    counts: of the last look, by modality; whoever passes them on takes them away.
    """

    def __init__(self, contents: Mapping[str, Content], clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self.counts: dict[str, OfModality] = {}
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
            carried = {field: content.judged - content.missing[field] for field in content.fields}
            for field, events in carried.items():
                metrics.FIELD_PRESENT.labels(modality, field).set(events / content.judged)
            if carried:
                self.counts[modality] = OfModality(content.judged, carried)
            if never := [field for field, events in carried.items() if not events]:
                log.warning(
                    logs.FIELDS_MISSING,
                    modality=modality,
                    events=content.judged,
                    missing=never,
                    seen=names(content.incomplete),
                )
            content.forget()
