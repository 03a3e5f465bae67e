"""Which rows take part in a search, when some are written between two looks."""

from __future__ import annotations

import numpy as np

from store.index.row_table import RowTable
from store.index.selection import Filters, Selection


def test_a_model_that_nobody_has_finds_nobody_whoever_goes_meanwhile() -> None:
    """Its code is that of a free place: a row cleared between two looks was taken for one of its users."""
    table = RowTable(2, 4)
    vector = np.array([1.0, 0.0], np.float32)
    table.put("anna", (0, 1), vector, b"", "m1")
    selection = Selection(table, table.model_code("m2"), Filters())
    table.clear("anna")
    assert selection.refresh(table).tolist() == [0]
    assert selection.count == 0
    table.put("bert", (0, 2), vector, b"", "m1")
    selection.refresh(table)
    assert selection.count == 0
