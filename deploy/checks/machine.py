"""Checks of this Python: version, packages, what torch computes on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings

PYTHON_MINIMUM = (3, 11)
BASE_FILES = 96
"""Of a role: libraries, Kafka's sockets, logs."""
FILES_PER_PARTITION = 16
"""Of an open token buffer: its log, manifest, lock and tables."""
LEAST_CONNECTIONS = 16
_FAISS = ("faiss-cpu", "faiss-gpu")


def check_python() -> Finding:
    """Version and machine."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    if sys.version_info < PYTHON_MINIMUM:
        return Finding("python", Level.FAIL, detail, "anchorstream needs Python 3.11 or newer")
    return Finding("python", Level.OK, detail)


def check_packages() -> Finding:
    """Every requirement of the installed anchorstream, and one of the two FAISS packages."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("anchorstream") or []]
    except metadata.PackageNotFoundError:
        return Finding("packages", Level.WARN, "anchorstream itself is not installed", "run `make setup`")
    needed = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = []
    for requirement in needed:
        version = _version(requirement.name)
        if version is None:
            faults.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} is {version}, needs {requirement.specifier}")
    faiss = [name for name in _FAISS if _version(name)]
    if len(faiss) != 1:
        faults.append(f"one of {' and '.join(_FAISS)} is needed, found {' and '.join(faiss) or 'none'}")
    if faults:
        return Finding("packages", Level.FAIL, "; ".join(faults), "run `make setup`, or install requirements/*.txt")
    shown = ("torch", "transformers", "confluent-kafka", "faust-streaming", "rocksdict", faiss[0])
    return Finding("packages", Level.OK, ", ".join(f"{name} {_version(name)}" for name in shown))


def check_open_files(settings: Settings) -> Finding:
    """So many files and connections may be open as serve and the token buffers take."""
    from store.base.open_files import RESERVED_BY_SERVE, allowed

    may, wanted = allowed(), RESERVED_BY_SERVE + settings.serve.max_connections
    buffers = BASE_FILES + FILES_PER_PARTITION * settings.kafka.partitions
    detail = f"{may} may be open; serve takes up to {wanted}, a processor or worker of all partitions about {buffers}"
    action = "raise `ulimit -n` where the roles are started (LimitNOFILE= of a systemd unit)"
    if may < max(buffers, RESERVED_BY_SERVE + LEAST_CONNECTIONS):
        return Finding("open files", Level.FAIL, detail, action)
    if may < wanted:
        fewer = f"{action}, or lower serve.max_connections: serve takes {may - RESERVED_BY_SERVE} as it is"
        return Finding("open files", Level.WARN, detail, fewer)
    return Finding("open files", Level.OK, detail)


def check_device(settings: Settings) -> Finding:
    """What torch will compute on."""
    import torch

    wanted = settings.model.device
    if wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available()):
        index = int(wanted.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            return Finding(
                "device",
                Level.FAIL,
                f"model.device is {wanted!r}, torch sees {torch.cuda.device_count()} CUDA device(s)",
                'set model.device = "auto" or "cpu", or mend the driver',
            )
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory
        detail = f"{properties.name}, {memory / (1 << 30):.0f} GiB, torch {torch.__version__}"
        if settings.model.kv_pool_bytes > memory // 2:
            return Finding(
                "device", Level.WARN, f"{detail}; model.kv_pool_bytes takes over half of it", "leave room for the model"
            )
        return Finding("device", Level.OK, detail)
    threads = settings.model.threads or torch.get_num_threads()
    return Finding("device", Level.OK, f"CPU, {threads} threads, torch {torch.__version__}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
