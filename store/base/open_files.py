"""How many files and connections this process may have open: raised as far as it may be; named where too few."""

from __future__ import annotations

import errno
import resource

from store.base.errors import StateError

MAX_OPEN_FILES = 65_536
RESERVED_BY_SERVE = 288
"""Kept from connections: Kafka's sockets, snapshots, logs, and connections that wait outside their bound."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
_IN_WORDS = "Too many open files"


def allowed() -> int:
    """So many may this process have open once `raise_limit` was called; MAX_OPEN_FILES where there is no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)


def raise_limit() -> int:
    """Raise the soft limit as far as it may be, up to MAX_OPEN_FILES; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = allowed()
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def exhausted(exc: BaseException) -> StateError | None:
    """The error of a file or connection that could not be opened because too many are; else None."""
    here = isinstance(exc, OSError) and exc.errno in _EXHAUSTED
    if not here and not (type(exc) is Exception and _IN_WORDS in str(exc)):  # RocksDB's
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    machine = isinstance(exc, OSError) and exc.errno == errno.ENFILE
    return StateError(
        f"too many open files{' on this machine' if machine else f': this process may have {soft}'} ({exc})",
        action="raise the limit: "
        + ("`sysctl fs.file-max`" if machine else f"`ulimit -n` (hard limit {hard}), LimitNOFILE= of a systemd unit")
        + "; `anchorstream doctor` says how many are needed",
        code="open_files_exhausted",
    )
