"""What a broker needs of the machine: free ports, and an end when we end."""

from __future__ import annotations

import os
import socket
import sys
import threading

from store.base.errors import BrokerError

_EXEC_UNTIL_PARENT_ENDS = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):  # else it ended before we asked
    os.execv(sys.argv[2], sys.argv[2:])
"""


def ends_with_us() -> list[str]:
    """Command prefix under which a program gets SIGTERM when this process ends, in whatever way; empty if none exists.

    Linux only; and only from the main thread, because the kernel's signal follows the *thread* that started the child.
    The program replaces the prefix in the same process, so it stays our direct child.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return []
    return [sys.executable, "-I", "-S", "-c", _EXEC_UNTIL_PARENT_ENDS, str(os.getpid())]


def free_ports(*wanted: int | None) -> list[int]:
    """One free loopback port for each of `wanted`: that one if it is free, else any."""
    sockets = [_bind(port) for port in wanted]
    try:
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _bind(port: int | None) -> socket.socket:
    for candidate in (port or 0, 0):
        s = socket.socket()
        # as Kafka binds: connections of the last life that are still in TIME_WAIT do not count
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", candidate))
        except OSError:
            s.close()
            continue
        return s
    raise BrokerError("no free port on 127.0.0.1", action="end programs that hold many ports")
