"""`anchorstream up`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common


def up(
    *,
    data_dir: Annotated[Path | None, Parameter(help="Overrides store.data_dir.")] = None,
    port: Annotated[
        int | None, Parameter(validator=Number(gte=0, lte=65535), help="Overrides serve.port; 0 = any free one.")
    ] = None,
    processors: Annotated[int, Parameter(validator=Number(gte=1), help="Processes of this role.")] = 1,
    workers: Annotated[int, Parameter(validator=Number(gte=1), help="Processes of this role.")] = 1,
    monitor: Annotated[bool, Parameter(negative="", help="Also run the monitor (lag as metrics and logs).")] = False,
    common: Common | None = None,
) -> None:
    """Start the broker, if it is ours, and every role; restart what dies; Ctrl-C drains and stops all.

    With --json, one object {url, broker, bootstrap, data_dir, pids} on standard output as soon as all is ready.
    """
    from deploy import brokers, output
    from deploy.commands.common import load_settings
    from deploy.run.attend import tell, telling_left, telling_refused, wait_ready
    from deploy.run.interrupt import stop_on_signals
    from deploy.run.launcher import Launcher
    from store.base.stop import Stopped, obey

    overrides: dict[str, Any] = {}
    if data_dir is not None:
        overrides["store"] = {"data_dir": str(data_dir)}
    if port is not None:
        overrides["serve"] = {"port": port}
    common = common or Common()
    settings = load_settings(common.config, overrides, log_level="WARNING")
    roles = {"ingest": 1, "processor": processors, "worker": workers, "serve": 1, **({"monitor": 1} if monitor else {})}
    with stop_on_signals() as stop:
        # a broker that does not come up is waited for, but not after Ctrl-C
        launcher = Launcher(settings, roles=roles, on_event=tell, keep=True, waiting=partial(obey, stop))
        try:
            launcher.start()
            output.note(f"broker: {launcher.connection.bootstrap} ({settings.kafka.bootstrap_servers})")
            if kept := brokers.restoring(launcher.settings):
                output.note(
                    f"kept from before, and read anew: {kept:,} messages ({launcher.data_dir / brokers.KEPT_FOLDER})"
                )
            wait_ready(launcher, stop)
            if not stop.is_set():
                if common.json:
                    found = {"url": launcher.url, "broker": settings.kafka.bootstrap_servers}
                    found["bootstrap"] = launcher.connection.bootstrap
                    output.write_json({**found, "data_dir": str(launcher.data_dir), "pids": launcher.pids()})
                output.note(f"ready: {launcher.url}  (logs: {launcher.log_dir}; Ctrl-C stops)")
                with telling_refused(launcher), telling_left(launcher):
                    launcher.supervise(stop)
            output.note("stopping …")
        except Stopped:
            output.note("stopping …")
        finally:
            launcher.stop()
