"""glibc's allocator told to keep what a forward frees: the next one allocates the same sizes.

By default blocks of megabytes go back to the kernel after every layer, and fetching them again, page by page, costs a
CPU up to a tenth of a forward (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)

MMAP_BYTES = 32 << 20
"""The most mallopt accepts: larger blocks are mapped and unmapped one by one, as ever."""
KEPT_BYTES = 256 << 20
"""Free memory at the heap's end that is not given back; the rest is."""


def keep_freed_memory() -> bool:
    """Set it for this process, for good. Returns False where the C library is not glibc, and changes nothing."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, MMAP_BYTES) and library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
