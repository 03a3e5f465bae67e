"""The benchmark of ad-hoc queries with tiny numbers: every case is there, and the ratios are of its rows."""

from __future__ import annotations

import json

import pytest

from deploy.benches import embed


@pytest.mark.slow
@pytest.mark.usefixtures("forked_roles")
def test_embedded() -> None:
    found = embed.run(brief=True, asked=5, users=4, events=6)
    rows = {(row["case"], row["call"]): row for row in found.rows}
    calls = ("get", "embed, same query", "embed, new queries")
    assert set(rows) == {(case, call) for case in ("quiet", "load") for call in calls}
    for row in rows.values():
        assert (row["broker"], row["asked"]) == ("embedded", 5)
        assert 0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    for case in ("quiet", "load"):
        ratio = found.ratios[f"embed_vs_get_{case}_embedded"]
        assert ratio == rows[case, "embed, same query"]["p50"] / rows[case, "get"]["p50"]
    json.dumps(found.to_dict())
