"""Scripts that mend letters: well-behaved ones, and every way to misbehave."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.errors import NotFoundError, ScriptError
from stream.dead_letters.lines import Answer, letter_line, parse_answer
from stream.dead_letters.order import Group
from stream.dead_letters.read import RefusedEvent
from stream.dead_letters.script import LetterScript


def letter(n: int, value: bytes | None, key: bytes | None = b"user") -> RefusedEvent:
    return RefusedEvent(0, n, 5, "invalid_field", "why", "shop", 1, n, key, value)


def groups(count: int) -> Iterator[Group]:
    return (Group(letter(n, b'{"n": %d}' % n), ((0, n),)) for n in range(count))


def mend(tmp_path: Path, source: str, count: int = 3, timeout: float = 20) -> list[tuple[int, Answer]]:
    path = tmp_path / "mend.py"
    path.write_text(f"#!{sys.executable} -S\nimport json, os, sys, time\n{source}")
    path.chmod(0o700)
    script = LetterScript(path, stop=threading.Event(), timeout_seconds=timeout)
    return [(group.letter.offset, answer) for group, answer in script.mend(groups(count))]


ECHO = "for line in sys.stdin: print(json.dumps({'value': json.loads(line)['value']}))"
AT_THE_END = "for line in list(sys.stdin): print(json.dumps({'value': json.loads(line)['value']}))"
AT_ONCE = ECHO + "; sys.stdout.flush()"


@pytest.mark.parametrize("source", [ECHO, AT_THE_END, AT_ONCE])
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_every_letter_is_answered_in_order(tmp_path: Path, source: str, count: int) -> None:
    expected = [(n, Answer(b'{"n": %d}' % n)) for n in range(count)]
    assert mend(tmp_path, source, count) == expected


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    answers = mend(tmp_path, 'sys.stdin.read(); sys.stdout.write(\'{"skip": true, "reason": "old"}\')', 1)
    assert answers == [(0, Answer(None, True, "old"))]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (ECHO + "\nsys.stderr.write('no such field\\n'); sys.exit(3)", "exited with 3"),
        (ECHO + "\nsys.stderr.write('no such field\\n'); sys.exit(3)", "| no such field"),
        ("import signal; os.kill(os.getpid(), signal.SIGTERM)", "signal 15"),
        ("print(sys.stdin.readline() and '{\"skip\": true}')", "before the last letter"),
        ("sys.exit(0)", "before the last letter"),
        ("for line in sys.stdin: print('hello')", "not a JSON line"),
        ("for line in sys.stdin: print()", "letter 0:0 (invalid_field)"),
        ("for line in sys.stdin: print('{\"value\": null}')", "must be text"),
        (ECHO + "\nprint('{\"skip\": true}')", "more letters"),
        ("sys.stdout.write('x' * 5_000_000); sys.stdout.flush(); time.sleep(30)", "longer than"),
    ],
)
def test_a_misbehaving_script_stops_the_replay_and_says_why(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(ScriptError) as raised:
        mend(tmp_path, source)
    assert says in raised.value.detail
    assert "--dry-run" in raised.value.action


@pytest.mark.parametrize(
    "source", ["time.sleep(60)", "sys.stdin.read(); time.sleep(60)", "os.close(1); time.sleep(60)"]
)
def test_a_silent_script_is_ended(tmp_path: Path, source: str) -> None:
    started = time.monotonic()
    with pytest.raises(ScriptError, match=r"0\.5 s"):
        mend(tmp_path, source, timeout=0.5)
    assert time.monotonic() - started < 10


def test_closing_and_stop_end_the_script(tmp_path: Path) -> None:
    path, pid_file = tmp_path / "mend.py", tmp_path / "pid"
    path.write_text(
        f"#!{sys.executable} -S\nimport os, sys\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "for line in sys.stdin: print('{\"skip\": true}', flush=True)\nimport time; time.sleep(60)"
    )
    path.chmod(0o700)
    stop = threading.Event()
    mended = LetterScript(path, stop=stop).mend(groups(100))
    next(mended)
    mended.close()
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
    for answered, _ in enumerate(LetterScript(path, stop=stop).mend(groups(100)), start=1):
        if answered == 100:
            stop.set()
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_what_cannot_be_run_is_said_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mend.py"
    with pytest.raises(NotFoundError):
        LetterScript(path, stop=threading.Event())
    path.write_bytes(b"\x00no program")
    with pytest.raises(ScriptError) as raised:
        LetterScript(path, stop=threading.Event())
    assert "chmod" in raised.value.action
    path.chmod(0o700)
    with pytest.raises(ScriptError) as raised:
        next(LetterScript(path, stop=threading.Event()).mend(groups(1)))
    assert "#!" in raised.value.action


@given(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=10))
def test_a_line_is_json_whatever_the_bytes(value: bytes | None, key: bytes | None) -> None:
    line = letter_line(letter(1, value, key))
    assert line.count(b"\n") == 1
    shown = json.loads(line)
    assert (shown["value"] is None) == (value is None or "value_base64" in shown)
    echo = {"value_base64": shown["value_base64"]} if "value_base64" in shown else {"value": shown["value"]}
    if value is not None:
        assert parse_answer(json.dumps(echo).encode(), as_msgpack=False) == Answer(value)


def test_the_event_is_shown_decoded_and_taken_back_in_its_own_encoding() -> None:
    event = {"user_id": "u", "ts": 5, "amount": "1.5", "ü": None}
    for value in (json.dumps(event).encode(), msgpack.packb(event)):
        assert json.loads(letter_line(letter(1, value)))["event"] == event
    answer = json.dumps({"value": event}).encode()
    assert msgpack.unpackb(parse_answer(answer, as_msgpack=True).value) == event
    assert json.loads(parse_answer(answer, as_msgpack=False).value or b"") == event
    assert json.loads(letter_line(letter(1, msgpack.packb({"a": b"\xff"}))))["event"] is None


@pytest.mark.parametrize(
    "answer",
    [
        "[]", "{}", '{"value": 1}', '{"value": "x", "skip": true}', '{"skip": false}', '{"skip": true, "reason": 1}',
        '{"value_base64": "%"}', '{"value_base64": {}}', '{"value": {"a": NaN}}', '{"value": "\\ud800"}',
        '{"value": {"a": "\\ud800"}}', f'{{"value": {{"a": {2**70}}}}}',
    ],
)  # fmt: skip
def test_bad_answers(answer: str) -> None:
    with pytest.raises(ValueError, match=r"value|skip"):
        parse_answer(answer.encode(), as_msgpack=True)


@pytest.mark.skipif(shutil.which("jq") is None, reason="the documented script needs jq")
def test_the_documented_script_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    path = tmp_path / "mend"
    path.write_text("#!" + text.split("```sh\n#!")[1].split("```")[0])
    path.chmod(0o700)
    bad = [Group(letter(n, json.dumps({"user_id": "u", "amount": f"{n}.5"}).encode()), ((0, n),)) for n in range(3)]
    mended = [answer.value for _, answer in LetterScript(path, stop=threading.Event()).mend(iter(bad))]
    assert [json.loads(value or b"") for value in mended] == [{"user_id": "u", "amount": n + 0.5} for n in range(3)]
