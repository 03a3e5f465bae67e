"""`anchorstream embedding USER`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deploy.commands.common import Common


def embedding(
    user: str,
    *,
    scenario: Annotated[str | None, Parameter(help="One scenario; default: all but candidates'.")] = None,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Show a user's embedding record."""
    from deploy import output
    from deploy.operate.answers import each, record_of, write_record
    from deploy.operate.service_client import Service

    common = common or Common()
    settings = common.settings()
    service = Service.find(settings, url)
    records = each(
        service, scenario, lambda name: record_of(service, name, user), configured=settings.scenario_names
    ).values()
    if common.json:
        output.write_json(next(iter(records)) if scenario else list(records))
        return
    for record in records:
        write_record(record)
