"""Imports without what somebody else's optional support would bring along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """What is imported inside takes these for not installed, unless they are imported already.

    transformers imports scikit-learn where it finds it, for one function of assisted generation; that brings pandas and
    pyarrow: 3,000 modules, and a thread of jemalloc's, into every role of an environment that also learns.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
