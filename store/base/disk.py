"""A disk that does not take what is written: as an error with what to do, whoever met it."""

from __future__ import annotations

import errno
from pathlib import Path

from store.base import open_files
from store.base.errors import StateError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_ROCKSDB = "IO error: "
"""How RocksDB's exceptions of this kind begin; rocksdict raises plain Exception."""


def refused(exc: BaseException, where: Path | None = None) -> StateError | None:
    """The error of a disk that is full, of a file system or file that may not be written, or that fails; else None.

    where: what was written, if the exception does not say.
    """
    if (too_many := open_files.exhausted(exc)) is not None:
        return too_many
    if type(exc) is Exception and str(exc).startswith(_ROCKSDB):
        return _error(where, str(exc).removeprefix(_ROCKSDB), "free space, or make it writable, or mend the disk")
    if not isinstance(exc, OSError) or isinstance(exc, ConnectionError):
        return None
    if isinstance(exc.filename, str | bytes):
        where = Path(exc.filename if isinstance(exc.filename, str) else exc.filename.decode(errors="replace"))
    why = exc.strerror or str(exc)
    if exc.errno in _FULL:
        return _error(where, why, "free space, or raise the quota")
    if exc.errno == errno.EIO:
        return _error(where, why, "look after the disk: the kernel's log says more")
    # without a file it is something else that is denied: a port, a signal
    if where is not None and exc.errno in _DENIED:
        return _error(where, why, "mount it writable, and let this user read and write it")
    if where is not None and exc.errno in _PATH:
        return _error(where, why, "name another path")
    return None


def _error(where: Path | None, why: str, action: str) -> StateError:
    return StateError(
        f"{where or 'a file'} cannot be written: {why}",
        action=f"{action}; nothing of what could not be written was acknowledged: start again then",
        code="data_dir_unwritable",
    )
