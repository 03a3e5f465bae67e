"""Rows of several files: all of them, once, in an order that the files alone decide."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.base.settings import ModalitySettings
from store.base.stop import Stopped
from stream.replay.open_files import open_rows
from stream.replay.order import Merging, read
from stream.replay.replay import Outgoing, ReplayProgress, Router, replay
from stream.replay.resume import ResumeFile
from tests.stream.replay.test_replay import Sent

CLICKS = {"click": ModalitySettings(topic="in.click", text="{title}")}
SMALL = Merging(memory_bytes=1000)
fast = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, files: list[list[Any]]) -> list[Path]:
    """One file for each list of times; `n` says which row of which file it is."""
    paths = []
    for number, times in enumerate(files):
        rows = (json.dumps({"user_id": "u1", "ts": ts, "n": [number, n]}) + "\n" for n, ts in enumerate(times))
        path = folder / f"{number}.jsonl"
        path.write_text("".join(rows))
        paths.append(path)
    return paths


def messages(paths: list[Path], **how: Any) -> list[Outgoing]:
    with ExitStack() as stack:
        files = [stack.enter_context(open_rows(str(path))) for path in paths]
        return list(read(files, Router(CLICKS, "dead"), ReplayProgress(), **how))


def marks(found: list[Outgoing]) -> list[list[int]]:
    return [json.loads(message.value or b"")["n"] for message in found]


times = st.lists(st.integers(0, 1000) | st.sampled_from([None, "noon", 10**14]), max_size=25)


@given(files=st.lists(times, min_size=1, max_size=4), clock=st.integers(0, 2**40))
@fast
def test_merged_files_keep_every_row_in_an_order_of_the_files_alone(
    tmp_path: Path, files: list[list[Any]], clock: int
) -> None:
    """B5: what lies in the future by the wall clock used to be merged elsewhere."""
    paths = write(tmp_path, files)
    with pytest.MonkeyPatch.context() as patch:
        found = messages(paths, merge=SMALL)
        patch.setattr("time.time", lambda: float(clock))
        assert marks(messages(paths, merge=SMALL)) == marks(found)
    assert sorted(marks(found)) == [[f, n] for f, of in enumerate(files) for n in range(len(of))]
    assert [message.file for message in found] == [file for file, _ in marks(found)]


@given(files=st.lists(st.lists(st.integers(0, 1000), max_size=25), min_size=1, max_size=4))
@fast
def test_unsorted_files_are_merged_as_if_they_were_sorted(tmp_path: Path, files: list[list[int]]) -> None:
    found = messages(write(tmp_path, files), merge=SMALL)
    placed = ((ts, file, n) for file, of in enumerate(files) for n, ts in enumerate(of))
    assert marks(found) == [[file, n] for _, file, n in sorted(placed)]


@given(
    files=st.lists(times, min_size=1, max_size=3), merged=st.booleans(), cuts=st.lists(st.integers(0, 30), max_size=4)
)
@fast
def test_a_replay_in_pieces_sends_every_row_once(
    tmp_path: Path, files: list[list[Any]], merged: bool, cuts: list[int]
) -> None:
    """Cut after any number of messages, any number of times; what each file had acknowledged is passed over."""
    paths, state = write(tmp_path, files), tmp_path / "resume.json"
    state.unlink(missing_ok=True)
    sent = Sent()
    for cut in [*cuts, None]:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_rows(str(path))) for path in paths]
            position = ResumeFile.of(state, opened, merge=merged, broker="b")
            skip = position.load()
            stop, progress = threading.Event(), ReplayProgress()
            reading = read(opened, Router(CLICKS, "dead"), progress, skip=skip, merge=SMALL if merged else None)

            def until(cut: int | None, stop: threading.Event, reading: Any = reading) -> Any:
                for n, message in enumerate(reading):
                    if n == cut:
                        stop.set()
                    yield message

            def save(taken: Any, skip: list[int] = skip, position: ResumeFile = position) -> None:
                position.save([before + taken[n] for n, before in enumerate(skip)])

            replay(until(cut, stop), sent, stop=stop, progress=progress, on_acknowledged=save)
            assert progress.skipped == sum(skip)
    found = [json.loads(value or b"")["n"] for _, _, value in sent.messages]
    assert found == marks(messages(paths, merge=SMALL if merged else None))


def test_one_file_that_is_not_in_order_does_not_make_the_others_wait(tmp_path: Path) -> None:
    """And one line of the year 5138 holds up nothing: sorted, it comes last; in order, it stays where it is."""
    paths = write(tmp_path, [[5, 10**14, 1, 9], [2, 4, 10**14, 6]])
    assert marks(messages(paths, merge=SMALL)) == [[0, 2], [1, 0], [1, 1], [1, 2], [0, 0], [1, 3], [0, 3], [0, 1]]


def test_sorting_is_shown_and_can_be_stopped(tmp_path: Path) -> None:
    paths = write(tmp_path, [list(range(1000, 0, -1))])
    progress, seen = ReplayProgress(), set()
    with open_rows(str(paths[0])) as file:
        assert (
            len(list(read([file], Router(CLICKS, "d"), progress, merge=SMALL, tick=lambda: seen.add(progress.phase))))
            == 1000
        )
        assert seen == {"looking whether the files are in order", "sorting", ""}

        def stop() -> None:
            if progress.phase == "sorting":
                raise Stopped

        done = replay(read([file], Router(CLICKS, "d"), progress, merge=SMALL, tick=stop), Sent(), progress=progress)
    assert done.interrupted
