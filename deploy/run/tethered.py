"""`python tethered.py PARENT_PID ARG…`: become the command ARG…, which the kernel kills when its parent dies.

A supervisor killed by SIGKILL cannot stop its children; on Linux the kernel does it (PR_SET_PDEATHSIG survives exec).
Set here and not in `preexec_fn`, which may deadlock in a threaded parent. Only the standard library, nothing of ours:
it runs with `-I -S`, which makes it a matter of milliseconds. The signal is tied to the *thread* that forked, so a
supervisor starts its children from a thread that lives as long as they should.
"""

from __future__ import annotations

import os
import sys


def tether(parent: int) -> None:
    """Have this process killed when `parent` dies. Without effect where the kernel has no such thing."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


if __name__ == "__main__":
    tether(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
