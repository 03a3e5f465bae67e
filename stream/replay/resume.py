"""How far a replay got, in a small JSON file, so that an interrupted one goes on where it stopped.

What the file counts was acknowledged by the broker. A few rows after it may have been sent as well; their events are
recognised by `event_id`, so rows without one should not be replayed in pieces.

It knows whom it counts for: the broker, by its identity, and each file, by its size and by what stands at the beginning
and before the end of that size. A file may grow, unless it is merged with others, where that could change the order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from store.base.errors import StateError
from store.base.files import sweep, write_json
from stream.replay.row_file import RowFile

VERSION = 2
_LOOK_BYTES = 64 << 10
_OTHER = "give the same files in the same order and the same --sort, or another --resume file"


class FileMark(NamedTuple):
    """What a file is recognised by. head, tail: SHA-256 of the first, and of the last 64 KiB of `size`."""

    path: str
    size: int
    head: str
    tail: str

    @classmethod
    def of(cls, path: Path, size: int) -> FileMark:
        """The mark of a file's first `size` bytes; of all it has, if it has fewer."""
        with path.open("rb") as file:
            head = hashlib.sha256(file.read(min(_LOOK_BYTES, size))).hexdigest()
            file.seek(max(0, size - _LOOK_BYTES))
            tail = hashlib.sha256(file.read(min(_LOOK_BYTES, size))).hexdigest()
            return cls(str(path), min(size, file.seek(0, 2)), head, tail)


@dataclass(frozen=True, slots=True)
class ResumeFile:
    """Position of one replay at one broker: how many rows of each file are safe there."""

    path: Path
    files: tuple[FileMark, ...]
    merge: bool
    broker: str

    @classmethod
    def of(cls, path: Path, files: Sequence[RowFile], *, merge: bool, broker: str) -> ResumeFile:
        """broker: its identity, or its history's. Raises StateError for a stream: it cannot be read twice."""
        if any(not file.repeatable for file in files):
            raise StateError("standard input cannot be resumed", action="leave --resume out, or give a file")
        return cls(path, tuple(FileMark.of(Path(file.path).resolve(), file.size) for file in files), merge, broker)

    def load(self) -> list[int]:
        """Rows to skip of each file; none where there is no resume file yet.

        Raises:
            StateError: it is of another replay, of another broker, or a file is not the one it was.
        """
        sweep(self.path.parent, self.path.name)
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] == 1:
                raise StateError(
                    f"{self.path} is of an earlier version, which did not know its broker",
                    action="name another file, or delete it: everything is sent again then",
                )
            merge, broker = data["merge"], str(data["broker"])
            saved = [FileMark(*(of[name] for name in FileMark._fields)) for of in data["files"]]
            rows = [int(of["rows"]) for of in data["files"]]
        except FileNotFoundError:
            return [0] * len(self.files)
        except (ValueError, KeyError, TypeError) as exc:
            raise StateError(f"{self.path} is not a resume file", action="name another file, or delete it") from exc
        if (merge, [of.path for of in saved]) != (self.merge, [of.path for of in self.files]):
            named = ", ".join(of.path for of in saved)
            raise StateError(f"{self.path} belongs to a replay of {named}", action=_OTHER)
        if broker != self.broker:
            raise StateError(
                f"{self.path} counts what the broker {broker} was given; this is {self.broker}, which has none of it",
                action=f"to send everything to this broker delete {self.path}, or name another --resume file",
            )
        for before, now in zip(saved, self.files, strict=True):
            self._check(before, now)
        return rows

    def save(self, rows: Sequence[int]) -> None:
        """Replace the file, atomically and durably. rows: of each file, from its beginning."""
        files: list[dict[str, Any]] = [
            {**mark._asdict(), "rows": count} for mark, count in zip(self.files, rows, strict=True)
        ]
        write_json(self.path, {"version": VERSION, "broker": self.broker, "merge": self.merge, "files": files})

    def _check(self, before: FileMark, now: FileMark) -> None:
        if now.size < before.size or FileMark.of(Path(now.path), before.size) != before:
            why = "is not the file it was: it has other content"
        elif self.merge and now.size > before.size:
            why = f"has grown from {before.size:,} to {now.size:,} bytes; what is new may belong before what was sent"
        else:
            return
        raise StateError(
            f"{now.path} {why} (by {self.path})",
            action="to send it from its beginning delete the resume file, or name another",
        )
