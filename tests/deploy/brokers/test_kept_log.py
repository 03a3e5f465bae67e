"""The log of what an embedded broker was given: whole messages, whatever was cut off."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.kept_log import MAGIC, KeptLog, KeptMessage
from store.base.errors import StateError

maybe = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5), maybe), max_size=2).map(tuple)
messages = st.lists(
    st.builds(KeptMessage, st.text(min_size=1), st.integers(0, 9), st.integers(0, 2**45), maybe, maybe, headers),
    max_size=8,
)


@given(messages, messages, st.floats(0, 1))
def test_a_cut_costs_at_most_what_it_cuts(before: list[KeptMessage], after: list[KeptMessage], share: float) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory)
        ends = []
        with KeptLog(path) as log:
            history = log.history
            for message in before:
                log.append(message)
                log.flush()
                ends.append(log.path.stat().st_size)
            size = log.path.stat().st_size
        cut = int(share * size)
        with log.path.open("r+b") as file:
            file.truncate(cut)
        with KeptLog(path) as log:
            whole = before[: sum(end <= cut for end in ends)]
            assert (list(log), log.count, log.history) == (whole, len(whole), history)
            for message in after:
                log.append(message)
            log.flush()
            assert list(log) == whole + after
        with KeptLog(path) as log:
            assert list(log) == whole + after


@given(st.integers(0, 5000), st.integers(1, 255))
def test_damage_before_the_end_is_told(at: int, flip: int) -> None:
    """Never cut away, never read as something else."""
    with TemporaryDirectory() as directory:
        with KeptLog(Path(directory)) as log:
            for n in range(50):
                log.append(KeptMessage("t", n % 3, n, b"k", bytes([n]) * 80))
            log.flush()
            wanted = list(log)
        content = bytearray(log.path.read_bytes())
        at %= len(content)
        content[at] ^= flip
        log.path.write_bytes(content)
        try:
            with KeptLog(Path(directory)) as log:
                found = list(log)
        except StateError:
            assert log.path.read_bytes() == content
        else:  # a length that seems to reach beyond the end: half a message
            assert found == wanted[: len(found)]
            assert at < len(content)


def test_space_that_was_never_filled_is_cut(tmp_path: Path) -> None:
    with KeptLog(tmp_path) as log:
        log.append(KeptMessage("t", 0, 1, None, b"x"))
    with log.path.open("ab") as file:
        file.write(bytes(5_000_000))
    with KeptLog(tmp_path) as log:
        assert log.count == 1
    with log.path.open("ab") as file:
        file.write(bytes(5_000_000) + b"more")
    with pytest.raises(StateError, match="damaged at byte"):
        KeptLog(tmp_path)


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    with KeptLog(tmp_path) as log:
        pass
    log.path.write_bytes(b"somebody else's bytes")
    with pytest.raises(StateError, match="no log of an embedded broker"):
        KeptLog(tmp_path)
    log.path.write_bytes(MAGIC)
    with KeptLog(tmp_path) as log:
        assert log.count == 0
