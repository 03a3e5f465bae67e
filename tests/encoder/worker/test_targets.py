"""What a committed offset says about back-fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.worker.targets import COMPLETE, MAX_ENTRIES, MAX_METADATA, Target, carried_on, pack, unpack
from stream.commit_metadata import Waiting, with_waiting

STANDINGS = st.dictionaries(st.binary(min_size=6, max_size=6), st.integers(0, 0xFFFF), max_size=40)


@given(STANDINGS)
def test_standings_survive_packing(standings: dict[bytes, int]) -> None:
    assert unpack(pack(standings)) == standings
    assert unpack(with_waiting(pack(standings), Waiting(12, 3.5))) == standings
    assert pack(dict(reversed(standings.items()))) == pack(standings)


def test_what_does_not_fit_is_left_out_unfinished_work_first() -> None:
    digests = [i.to_bytes(6, "big") for i in range(MAX_ENTRIES + 10)]
    standings = {digest: COMPLETE if i % 2 else 7 for i, digest in enumerate(digests)}
    packed = with_waiting(pack(standings), Waiting(999_999_999, 1.23e-7))
    assert len(packed) <= MAX_METADATA
    found = unpack(packed)
    assert len(found) == MAX_ENTRIES
    assert found.items() <= standings.items()
    complete = {digest for digest, attempt in standings.items() if attempt == COMPLETE}
    assert complete <= found.keys()
    assert MAX_ENTRIES >= 256, "the most scenarios a configuration may have"


@pytest.mark.parametrize("metadata", [None, "", "1:x", "1:AAAA", "2:AAAAAAAAAAA=", "0f1e2d3c4b5a69788796a5b4"])
def test_foreign_metadata_says_nothing(metadata: str | None) -> None:
    assert unpack(metadata) == {}


@given(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from("mn")), max_size=6), STANDINGS)
def test_standings_are_those_of_the_targets(raw: set[tuple[str, int, str]], found: dict[bytes, int]) -> None:
    targets = [Target(*values) for values in sorted(raw)]
    assert len({target.digest for target in targets}) == len(targets), "any part makes a difference"
    found |= {target.digest: attempt for target, attempt in zip(targets[::2], (COMPLETE, 5, 9), strict=False)}
    kept = carried_on(found, targets)
    assert kept.keys() == {target.digest for target in targets}
    for target in targets:
        assert kept[target.digest] == found[target.digest] if target.digest in found else kept[target.digest] > 0
