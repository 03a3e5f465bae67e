"""`anchorstream scenarios list`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from deploy.commands.common import Common

app = App(name="scenarios", help="Scenarios and how many users each has.")


@app.command(name="list")
def list_scenarios(
    *,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """The scenarios of the running service."""
    from deploy import output
    from deploy.service_client import Service

    common = common or Common()
    service = Service.find(common.settings(), url)
    answer = service.get("/v1/scenarios")
    if common.json:
        output.write_json(answer)
        return
    rows = [(s["name"], s.get("users"), s.get("model"), s["query"]) for s in answer["scenarios"]]
    output.write_table(("scenario", "users", "model", "query"), rows, right=("users",))
