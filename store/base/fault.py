"""Crash points for tests: `ANCHORSTREAM_FAULT=name[:n]` ends the process at the n-th pass of `point(name)`.

The process ends as by kill -9: no handler, no flush. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os

EXIT_CODE = 86

_name, _, _count = os.environ.get("ANCHORSTREAM_FAULT", "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Die here if the environment says so."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os._exit(EXIT_CODE)
