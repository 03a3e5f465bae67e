"""How far a replay got, in a small JSON file, so that an interrupted one goes on where it stopped.

What the file counts was acknowledged by the broker. A few lines after it may have been sent as well; their events are
recognised by `event_id`, so lines without one should not be replayed in pieces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from store.base.errors import StateError
from store.base.files import sweep, write_json
from stream.replay.row_file import RowFile

VERSION = 1


@dataclass(frozen=True, slots=True)
class ResumeFile:
    """Position of one replay: the files in order, and how many of their lines are safe at the broker."""

    path: Path
    files: tuple[str, ...]
    merge: bool

    @classmethod
    def of(cls, path: Path, files: Sequence[RowFile], *, merge: bool) -> ResumeFile:
        """Raises StateError for a stream: it cannot be read twice."""
        if any(not file.repeatable for file in files):
            raise StateError("standard input cannot be resumed", action="leave --resume out, or give a file")
        return cls(path, tuple(str(Path(file.path).resolve()) for file in files), merge)

    def load(self) -> int:
        """Lines to skip; 0 where there is no resume file yet. Raises StateError if it is of another replay."""
        sweep(self.path.parent, self.path.name)
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            known = (data["version"], tuple(data["files"]), data["merge"])
            lines = int(data["acknowledged_lines"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError) as exc:
            raise StateError(f"{self.path} is not a resume file", action="name another file, or delete it") from exc
        if known != (VERSION, self.files, self.merge):
            raise StateError(
                f"{self.path} belongs to a replay of {', '.join(data['files'])}",
                action="give the same files in the same order and the same --sort, or another --resume file",
            )
        return lines

    def save(self, acknowledged_lines: int) -> None:
        """Replace the file, atomically and durably."""
        data = {"version": VERSION, "files": self.files, "merge": self.merge, "acknowledged_lines": acknowledged_lines}
        write_json(self.path, data)
