"""A resume file knows its broker and its files; what may still go on is not safe."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.base.errors import StateError
from store.base.settings import ModalitySettings
from stream.replay.open_files import open_rows
from stream.replay.order import read
from stream.replay.replay import ReplayProgress, Router, replay
from stream.replay.resume import ResumeFile
from tests.stream.replay.test_replay import Sent

CLICKS = {"click": ModalitySettings(topic="in.click", text="{title}")}


def send(
    path: Path, state: Path, *, broker: str = "b", merge: bool = False
) -> tuple[list[bytes | None], ReplayProgress]:
    """Replay with --resume, from where it is to the end; what was sent."""
    sent, progress = Sent(), ReplayProgress()
    with open_rows(str(path)) as file:
        position = ResumeFile.of(state, [file], merge=merge, broker=broker)
        skip = position.load()
        reading = read([file], Router(CLICKS, "dead"), progress, skip=skip, whole_only=True)
        replay(
            reading, sent, progress=progress, on_acknowledged=lambda taken: position.save([skip[0] + taken.get(0, 0)])
        )
    return [value for _, _, value in sent.messages], progress


@given(cuts=st.lists(st.integers(0, 400), max_size=5), compressed=st.booleans(), end=st.sampled_from([b"", b"\n"]))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_grows_is_sent_whole_wherever_it_was_cut(
    tmp_path: Path, cuts: list[int], compressed: bool, end: bytes
) -> None:
    """B5: a half last line was sent and counted, and its completion passed over."""
    lines = [json.dumps({"user_id": "u1", "n": n}).encode() for n in range(20)]
    text = b"\n".join(lines) + end
    path, state = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl"), tmp_path / "resume.json"
    path.write_bytes(b"")
    state.unlink(missing_ok=True)
    got: list[bytes | None] = []
    written = 0
    for cut in [*sorted(cuts), len(text)]:
        piece = text[written:cut]
        written = max(written, cut)
        with path.open("ab") as file:
            file.write(gzip.compress(piece) if compressed else piece)
        sent, progress = send(path, state)
        got += sent
        begun = text[:written].split(b"\n")[-1]
        assert len(progress.left) == (begun not in (b"", *lines))
    assert got == lines


def test_a_file_of_the_same_name_with_other_content_is_refused(tmp_path: Path) -> None:
    """B5: a replaced file lost its first lines."""
    path, state = tmp_path / "a.csv", tmp_path / "resume.json"
    rows = [b"%d,x\n" % n for n in range(30_000)]
    path.write_bytes(b"a,b\n" + b"".join(rows))
    assert len(send(path, state)[0]) == 30_000
    assert send(path, state)[0] == []
    for other in (
        b"a,b\n" + b"".join(rows[:-1]),  # shorter
        b"b,a\n" + b"".join(rows),  # another beginning
        b"a,b\n" + b"".join(rows[:-1]) + b"29999,y\n",  # another end
    ):
        path.write_bytes(other)
        with pytest.raises(StateError, match="not the file it was"):
            send(path, state)
    path.write_bytes(b"a,b\n" + b"".join(rows) + b"30000,x\n30001,")
    assert send(path, state)[0] == [b'{"a":"30000","b":"x"}']
    with path.open("ab") as more:
        more.write(b"y\n")
    assert send(path, state)[0] == [b'{"a":"30001","b":"y"}']


def test_a_file_that_is_merged_may_not_grow(tmp_path: Path) -> None:
    path, state = tmp_path / "a.jsonl", tmp_path / "resume.json"
    path.write_bytes(b'{"n": 1}\n')
    send(path, state, merge=True)
    with path.open("ab") as more:
        more.write(b'{"n": 2}\n')
    with pytest.raises(StateError, match="has grown"):
        send(path, state, merge=True)


def test_it_counts_for_one_broker_only(tmp_path: Path) -> None:
    """D1: after `up` was stopped, the embedded broker's next life was taken for the one that had the events."""
    path, state = tmp_path / "a.jsonl", tmp_path / "resume.json"
    path.write_bytes(b'{"n": 1}\n')
    assert len(send(path, state, broker="embedded:1")[0]) == 1
    with pytest.raises(StateError, match="embedded:1") as found:
        send(path, state, broker="embedded:2")
    assert str(state) in found.value.action
    assert send(path, state, broker="embedded:1")[0] == []


def test_what_is_no_resume_file_of_this_replay_is_refused(tmp_path: Path) -> None:
    path, other, state = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "resume.json"
    for each in (path, other):
        each.write_bytes(b'{"n": 1}\n')
    send(path, state)
    with pytest.raises(StateError, match="belongs to"):
        send(other, state)
    with pytest.raises(StateError, match="belongs to"):
        send(path, state, merge=True)
    state.write_text('{"version": 1, "files": [], "merge": false, "acknowledged_lines": 7}')
    with pytest.raises(StateError, match="earlier version"):
        send(path, state)
    state.write_text("[]")
    with pytest.raises(StateError, match="not a resume file"):
        send(path, state)
    with pytest.raises(StateError, match="standard input"):
        ResumeFile.of(state, [open_rows("-")], merge=False, broker="b")
