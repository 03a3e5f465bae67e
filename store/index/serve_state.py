"""What one serve process knows. The tail of `embeddings.*` and `events` writes it, every request reads it."""

from __future__ import annotations

from collections.abc import Iterable

from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog
from store.index.field_board import FieldBoard
from store.index.freshness import PendingEvents


class ServeState:
    """Empty at first.

    Args:
        configured: names of the scenarios that count for freshness before any other.
        partitions: of every `embeddings.*` topic.
    """

    def __init__(self, configured: Iterable[str], partitions: int) -> None:
        self.catalog = Catalog()
        """The scenarios served, each with its index."""
        self.pending = PendingEvents(tuple(configured), self.catalog.coverage)
        """Accepted events that the catalog's indexes do not cover."""
        self.back_fills = BackFillBoard(partitions)
        """How far the back-fills of registered scenarios are."""
        self.fields = FieldBoard()
        """Which share of the last events carried each configured field."""
