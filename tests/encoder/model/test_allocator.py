"""Freed blocks stay with the process, so that the next forward does not fetch them from the kernel again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from encoder.model.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for megabytes in range(1, 29):  # glibc by default maps each: none so large was freed before
    torch.ones(megabytes << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_blocks_are_used_again() -> None:
    counts = {
        how: int(
            subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, timeout=60).stdout
        )
        for how in ("keep", "default")
    }
    assert counts["default"] > 80_000, "406 MB; otherwise the setting is not needed"
    assert counts["keep"] < counts["default"] / 3, "little more than the largest once"
