"""What a benchmark found, and on what machine and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from store.base.errors import NotFoundError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BenchResult:
    """rows: one per case, with the same keys. ratios: the figures that count, by name."""

    rows: Sequence[Row]
    ratios: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"machine": machine(), "commit": commit(), "rows": list(self.rows), "ratios": dict(self.ratios)}


def names() -> list[str]:
    """Benchmarks there are."""
    package = import_module("deploy.benches")
    return sorted(m.name for m in iter_modules(package.__path__) if not m.ispkg and m.name != "report")


def select(name: str) -> list[str]:
    """The benchmark of this name, or `all`. Raises NotFoundError for an unknown name."""
    known = names()
    if name != "all" and name not in known:
        raise NotFoundError(f"no benchmark {name!r}", action=f"one of: all, {', '.join(known)}")
    return known if name == "all" else [name]


def run(name: str, *, brief: bool, **options: Any) -> BenchResult:
    """Run one. options: of its own; see its `run`."""
    result: BenchResult = import_module(f"deploy.benches.{name}").run(brief=brief, **options)
    return result


def machine() -> dict[str, Any]:
    """What it ran on; `gpu` where there is one."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
    }
    try:
        import torch
    except ImportError:
        return found
    found["torch"] = torch.__version__
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str | None:
    """Git commit of the code, with `+` where files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
