"""The helpers that crash tests rest on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import Role, running

SLOW_START = "import time; time.sleep(0.3); print('role_ready', flush=True); time.sleep(60)"


def test_each_life_is_waited_for_anew(tmp_path: Path) -> None:
    """The first life's readiness, in the same log, does not count for the second."""
    one = Role("one", [sys.executable, "-c", SLOW_START], tmp_path)
    with running(one):
        first = one.pid
        one.kill()
        assert one.code() == -signal.SIGKILL
        one.start()
        assert "role_ready" not in one.output()
        one.wait_ready(10)
        assert one.pid != first
        one.signal(signal.SIGSTOP)
    assert not one.alive()


def test_a_role_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """And none of the others is left behind."""
    good = Role("good", [sys.executable, "-c", SLOW_START], tmp_path)
    bad = Role("bad", [sys.executable, "-c", "raise SystemExit('no broker')"], tmp_path)
    with pytest.raises(AssertionError, match="no broker"), running(good, bad):
        pass
    assert not good.alive()
