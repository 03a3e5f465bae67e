"""Runs an operator's script that mends dead letters; stream/dead_letters/lines.py says what it reads and answers.

It is started once, may answer at once or after the last line, and is ended by what it must not do: answer something
else, exit with another code than 0, or neither read nor answer for a while.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from store.base.errors import NotFoundError, ScriptError
from stream.dead_letters.lines import Answer, letter_line, parse_answer
from stream.dead_letters.order import Group
from stream.dead_letters.read import preview
from stream.events.decode import is_msgpack

TIMEOUT_SECONDS = 60.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
_READ_BYTES = 65_536
_STDERR_BYTES = 4096
_STDERR_LINES = 5
_LOOK_SECONDS = 0.2
_ACTION = (
    "mend the script and run the same command again (letters that were replayed are passed over); try it with "
    "--dry-run, and choose by --error and --topic what it can mend"
)


class LetterScript:
    """Runs the script. `stop` ends it; the caller looks at it afterwards.

    Raises NotFoundError or ScriptError if it is no file that can be run.
    """

    def __init__(
        self,
        path: Path,
        *,
        stop: threading.Event,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """timeout_seconds: the longest time in which it neither reads nor answers."""
        self._path = path.resolve()
        self._stop = stop
        self._timeout = timeout_seconds
        self._clock = clock
        if not self._path.is_file():
            raise NotFoundError(f"there is no script {path}", action="--fixed-by takes the path of an executable file")
        if not os.access(self._path, os.X_OK):
            raise ScriptError(f"{path} is not executable", action=f"chmod +x {path}")

    def mend(self, groups: Iterator[Group]) -> Generator[tuple[Group, Answer], None, None]:
        """Each group (without its value) and what the script answered, in order. Closing the iterator ends the script.

        Raises:
            ScriptError: it failed, hung or answered something else; what was yielded before is sound.
        """
        try:
            process = subprocess.Popen(
                [str(self._path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is ours: the script must not die of it in the middle of a line
            )  # fmt: skip
        except OSError as exc:
            raise ScriptError(
                f"{self._path} cannot be started: {exc.strerror}", action="a script begins with a line like #!/bin/sh"
            ) from exc
        exchange = _Exchange(process, groups)
        quiet_since = self._clock()
        try:
            while exchange.open and not self._stop.is_set():
                if exchange.step():
                    for group, as_msgpack, line in exchange.take():
                        try:
                            answer = parse_answer(line, as_msgpack=as_msgpack)
                        except ValueError as exc:
                            where = f"letter {group.letter.id} ({group.letter.error})"
                            raise self._failed(exchange, f"answered {where} by {preview(line, 80)}: {exc}") from exc
                        yield group, answer
                    quiet_since = self._clock()  # time the caller spent on the answers is not the script's
                elif self._clock() - quiet_since > self._timeout:
                    raise self._hung(exchange)
            if not self._stop.is_set():
                self._check_end(process, exchange)
        finally:
            exchange.close()
            _end(process)

    def _check_end(self, process: subprocess.Popen[bytes], exchange: _Exchange) -> None:
        try:
            code = process.wait(self._timeout)
        except subprocess.TimeoutExpired as exc:
            raise self._hung(exchange) from exc
        exchange.read_stderr()
        if code:
            how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
            raise self._failed(exchange, f"{how} after {exchange.answered} answers")
        if exchange.pending or exchange.unfed:
            raise self._failed(exchange, f"ended after {exchange.answered} answers, before the last letter")

    def _hung(self, exchange: _Exchange) -> ScriptError:
        return self._failed(exchange, f"neither read nor answered for {self._timeout:g} s (--timeout)")

    def _failed(self, exchange: _Exchange, what: str) -> ScriptError:
        said = exchange.stderr.decode("utf-8", "replace").strip().splitlines()[-_STDERR_LINES:]
        return ScriptError("\n".join([f"{self._path} {what}", *(f"  | {line}" for line in said)]), action=_ACTION)


class _Exchange:
    """The script's three pipes, moved without blocking.

    open: it may still answer. pending: letters given and not answered. stderr: the end of what it said.
    """

    def __init__(self, process: subprocess.Popen[bytes], groups: Iterator[Group]) -> None:
        self._groups = groups
        self._selector = selectors.DefaultSelector()
        self._stdin, self._stdout, self._stderr = _pipes(process)
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)
        self._out = memoryview(b"")
        self._in = bytearray()
        self._lines: list[bytes] = []
        self.open = True
        self.unfed = True
        self.answered = 0
        self.pending: deque[tuple[Group, bool]] = deque()
        self.stderr = b""

    def step(self) -> bool:
        """Move what can be moved now; False if nothing could for a moment."""
        if self.unfed and not self._out:
            self._feed()
        ready = self._selector.select(_LOOK_SECONDS)
        for key, _ in ready:
            if key.fileobj is self._stdin:
                self._write()
            elif key.fileobj is self._stdout:
                self._read()
            else:
                self.read_stderr()
        return bool(ready)

    def take(self) -> Iterator[tuple[Group, bool, bytes]]:
        """Complete answers with their letter and whether that was msgpack. Raises ScriptError for one too many."""
        lines, self._lines = self._lines, []
        for line in lines:
            if not self.pending:
                raise ScriptError(f"the script answered more letters than it was given: {preview(line, 80)}",
                                  action=_ACTION)  # fmt: skip
            group, as_msgpack = self.pending.popleft()
            yield group, as_msgpack, line
            self.answered += 1

    def read_stderr(self) -> None:
        """Keep the end of what the script says."""
        with contextlib.suppress(BlockingIOError, ValueError):  # ValueError: it was closed
            said = os.read(self._stderr.fileno(), _READ_BYTES)
            self.stderr = (self.stderr + said)[-_STDERR_BYTES:]
            if not said:
                self._drop(self._stderr)

    def close(self) -> None:
        """Close all pipes. Idempotent."""
        for pipe in (self._stdin, self._stdout, self._stderr):
            self._drop(pipe)
        self._selector.close()

    def _feed(self) -> None:
        group = next(self._groups, None)
        if group is None:
            self.unfed = False
            self._drop(self._stdin)
            return
        self._out = memoryview(letter_line(group.letter))
        # the value is in the line: letters that wait for their answer are small
        small = Group(replace(group.letter, value=None), group.places)
        self.pending.append((small, is_msgpack(group.letter.value or b"")))

    def _write(self) -> None:
        try:
            self._out = self._out[os.write(self._stdin.fileno(), self._out) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it wants no more letters; its end will be judged
            self._drop(self._stdin)
            self._out = memoryview(b"\0")

    def _read(self) -> None:
        data = os.read(self._stdout.fileno(), _READ_BYTES)
        self._in += data
        if not data:
            self.open = False
            self._drop(self._stdout)
            data = b"\n"
            if self._in:  # a last line without its end
                self._in += data
        if b"\n" in data:
            *lines, rest = self._in.split(b"\n")
            self._lines += [bytes(line) for line in lines]
            self._in = bytearray(rest)
        if len(self._in) > MAX_ANSWER_BYTES:
            raise ScriptError(f"the script's answer is longer than {MAX_ANSWER_BYTES} bytes", action=_ACTION)

    def _drop(self, pipe: IO[bytes]) -> None:
        if not pipe.closed:
            self._selector.unregister(pipe)
            pipe.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the script and what it started, unless it has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
