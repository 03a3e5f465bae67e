"""What a role imports, imported once by the fork server (tests/support/fork_server.py). Never imported by tests.

Importing torch, transformers and Faust costs a role five seconds of CPU; a fork costs a hundredth of that.
"""

from __future__ import annotations

import gc
import importlib
import os

from deploy.run.tethered import tether

MODULES = (
    "deploy.cli",
    "deploy.commands.run_role",
    "deploy.run.roles",
    "encoder.forward.model_set",
    "encoder.model.text_encoder",
    "encoder.worker.embed_requests",
    "encoder.worker.worker",
    "store.http.app",
    "store.http.wire.server",
    "stream.ingest.ingest",
    "stream.lag.monitor",
    "stream.processor.processor",
    "stream.serve.tail",
    "tests.support.hash_encoder",
)

tether(os.getppid())
for name in MODULES:
    importlib.import_module(name)
if (threads := len(os.listdir("/proc/self/task"))) != 1:
    raise RuntimeError(f"{threads} threads: a fork would have one of them, and the locks of all")
if any("eventpoll" in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")):
    raise RuntimeError("an event loop made at import would be shared by all children")
gc.collect()
gc.freeze()  # or the first collection in each child copies every page
