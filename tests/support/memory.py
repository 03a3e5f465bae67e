"""Resident memory of a process, from /proc (Linux)."""

from __future__ import annotations

from pathlib import Path

KIB = 1024


def resident_bytes(pid: int) -> int:
    """VmRSS of a process.

    Raises:
        OSError: there is no such process (or no /proc).
        ValueError: it has ended and was not waited for yet.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise ValueError(f"process {pid} has no memory any more")
