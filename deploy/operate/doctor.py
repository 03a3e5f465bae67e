"""`anchorstream doctor`: what is wrong on this machine, and what to do about each fault.

Every check is bounded in time, changes nothing, and ends in a finding; an expected fault is never a traceback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from deploy.checks import broker, events, files, in_force, machine, model, scenarios, state, time_stamps
from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings
from store.base.errors import AnchorstreamError, ConfigError

CHECK_SECONDS = 120.0
"""A check that takes longer (a hung network disk) is reported and left behind."""

CHECKS: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
    ("config", files.check_config),
    ("data directory", files.check_data_dir),
    ("open files", machine.check_open_files),
    ("in force", in_force.check_in_force),
    ("broker parts", broker.check_broker_parts),
    ("broker", broker.check_broker),
    ("topics", broker.check_topics),
    ("state", state.check_state),
    ("scenarios", scenarios.check_scenarios),
    ("events", events.check_events),
    ("time stamps", time_stamps.check_time_stamps),
    ("port", files.check_port),
    ("device", machine.check_device),
    ("text encoder", model.check_text_encoder),
    ("model", model.check_model),
)
"""In an order in which a fault explains those after it."""


def diagnose(load: Callable[[], Settings], *, check_seconds: float = CHECK_SECONDS) -> Iterator[Finding]:
    """Run every check and yield its finding as it comes.

    Args:
        load: reads the configuration; its ConfigError is a finding, and checks that need settings are left out.
    """
    yield bounded("python", machine.check_python, check_seconds)
    yield bounded("packages", machine.check_packages, check_seconds)
    try:
        settings = load()
    except ConfigError as exc:
        yield Finding("config", Level.FAIL, exc.detail, exc.action)
        return
    for name, check in CHECKS:
        yield bounded(name, lambda check=check: check(settings), check_seconds)  # type: ignore[misc]


def bounded(name: str, check: Callable[[], Finding], seconds: float) -> Finding:
    """Run one check on a thread of its own; a failure of any kind becomes a finding."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.append(check())
        except AnchorstreamError as exc:
            found.append(Finding(name, Level.FAIL, exc.detail, exc.action))
        except Exception as exc:
            found.append(Finding(name, Level.FAIL, f"unexpected {type(exc).__name__}: {exc}", "report this as a bug"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else Finding(name, Level.FAIL, f"no answer in {seconds:g} s", "see what blocks it")
