"""`anchorstream neighbors USER`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deploy.commands.common import Common


def neighbors(
    user: str,
    *,
    scenario: Annotated[str | None, Parameter(help="One scenario; default: all but candidates'.")] = None,
    k: Annotated[int, Parameter(name=["--k", "-k"], help="How many.")] = 10,
    exact: Annotated[bool, Parameter(negative="", help="Search all vectors, not the approximate index.")] = False,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Show the users nearest to one (score = cosine)."""
    from deploy import output
    from deploy.operate.answers import each, neighbors_of, write_neighbors
    from deploy.operate.service_client import Service

    common = common or Common()
    settings = common.settings()
    service = Service.find(settings, url)
    answers = each(
        service,
        scenario,
        lambda name: neighbors_of(service, name, user, k, exact=exact),
        configured=settings.scenario_names,
    )
    if common.json:
        output.write_json(answers[scenario] if scenario else answers)
        return
    scenarios = service.scenarios()
    for name, answer in answers.items():
        write_neighbors(name, scenarios[name]["query"] if name in scenarios else "", answer)
