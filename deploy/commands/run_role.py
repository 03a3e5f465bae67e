"""`anchorstream run ROLE`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deploy.commands.common import ConfigOption


def run_role(
    role: str,
    *,
    instance: Annotated[str, Parameter(help="Distinguishes members of one role that share a data directory.")] = "0",
    config: ConfigOption = None,
) -> int:
    """Run one role in this process until Ctrl-C or SIGTERM: ingest, processor, worker, serve or monitor.

    Start as many processes of a role as there are partitions; Kafka shares the work out. Give each on one machine its
    own --instance.
    """
    import faulthandler
    import sys

    from deploy.commands.common import config_path
    from deploy.run.interrupt import stop_on_signals
    from deploy.run.roles import run_role as run
    from deploy.settings.config import load
    from store.base import logs
    from store.base.errors import AnchorstreamError

    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # `kill -ABRT` leaves every thread's stack in the role's log
    try:
        logs.configure(role)
        logs.catch_all(instance=instance)
        settings = load(config_path(config))
        with stop_on_signals() as stop:
            run(role, settings, instance=instance, stop=stop)
    except Exception as exc:
        if not logs.as_json():
            raise
        logs.failed(exc, instance=instance)
        return exc.exit_code if isinstance(exc, AnchorstreamError) else 1
    return 0
