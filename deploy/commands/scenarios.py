"""`anchorstream scenarios list | put | retire`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.operate.service_client import Service

POLL_SECONDS = 0.5
SILENCE_SECONDS = 10.0
"""After this without a worker's report, say so."""
app = App(name="scenarios", help="Scenarios: those of the configuration, and those registered while the system runs.")
Url = Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")]


@app.command(name="list")
def list_scenarios(*, url: Url = None, common: Common | None = None) -> None:
    """The scenarios of the running service, and how far their back-fills are."""
    from deploy import output
    from deploy.operate.service_client import Service

    common = common or Common()
    answer = Service.find(common.settings(), url).get("/v1/scenarios")
    if common.json:
        output.write_json(answer)
        return
    rows = [
        (
            s["name"],
            "registered" if s.get("registered") else "configured",
            s.get("users"),
            s.get("model"),
            back_fill(s),
            s["query"],
        )
        for s in answer["scenarios"]
    ]
    output.write_table(("scenario", "", "users", "model", "back-fill", "query"), rows, right=("users",))


@app.command
def put(
    name: str,
    *,
    query: Annotated[str, Parameter(help="The question that embeddings are conditioned on, in natural language.")],
    prompt: Annotated[str | None, Parameter(help="A tuned soft prompt of the model.")] = None,
    wait: Annotated[bool, Parameter(negative="", help="Until every known user has an embedding.")] = False,
    url: Url = None,
    common: Common | None = None,
) -> None:
    """Register a scenario, or change its query. Every known user is brought to it, beside live updates."""
    from deploy import output
    from deploy.operate.service_client import Service, quote

    common = common or Common()
    service = Service.find(common.settings(), url, admin=True)
    path = f"/v1/scenarios/{quote(name)}"
    created, scenario = service.put(path, {"query": query, "prompt": prompt})
    if wait:
        scenario = wait_for_back_fill(service, path, quiet=common.json)
    if common.json:
        output.write_json({"created": created, **scenario})
        return
    output.write_pairs(
        {
            "scenario": scenario["name"],
            "": "registered" if created else "was registered before; its query and prompt are now:",
            "query": scenario["query"],
            "prompt": scenario["prompt"],
            "users": scenario["users"],
            "back-fill": back_fill(scenario),
        }
    )


@app.command
def retire(name: str, *, url: Url = None, common: Common | None = None) -> None:
    """Retire a scenario that was registered, with all its embeddings."""
    from deploy import output
    from deploy.operate.service_client import Service, quote

    common = common or Common()
    service = Service.find(common.settings(), url, admin=True)
    service.delete(f"/v1/scenarios/{quote(name)}")
    if common.json:
        output.write_json({"retired": name})
    else:
        output.note_result(f"{name} is retired; its embeddings are served no more")


def back_fill(scenario: dict[str, Any]) -> str:
    """How far a scenario's back-fill is, in a few words."""
    found = scenario.get("back_fill")
    if other := scenario.get("other_query"):
        return f"another query in the workers of partitions {', '.join(map(str, other))}"
    if found is None:
        return "not reported"
    if faults := faults_of(scenario):
        return "; ".join(faults)
    if found["complete"]:
        return "complete"
    return f"{found['done']:,} of {found['total']:,} users"


def faults_of(scenario: dict[str, Any]) -> list[str]:
    """Why workers cannot compute it."""
    parts = (scenario.get("back_fill") or {"partitions": []})["partitions"]
    return sorted({part["error"] for part in parts if part.get("error")})


def wait_for_back_fill(
    service: Service, path: str, *, quiet: bool = False, poll_seconds: float = POLL_SECONDS
) -> dict[str, Any]:
    """The scenario once its back-fill is complete, with a progress bar.

    Raises:
        NotFoundError: it was retired meanwhile. ServiceError: a worker cannot compute it, or the service has gone.
    """
    from deploy import output
    from deploy.operate.service_client import ServiceError

    said = time.monotonic() + SILENCE_SECONDS
    with output.progress("back-fill", quiet=quiet) as bar:
        while True:
            scenario: dict[str, Any] = service.get(path)
            found = scenario["back_fill"]
            if faults := faults_of(scenario):
                raise ServiceError(
                    f"{scenario['name']} cannot be computed: {'; '.join(faults)}",
                    action="mend what it says and put it again, or retire the scenario",
                    code="back_fill_failed",
                )
            if found is not None and found["complete"]:
                return scenario
            if found is None and time.monotonic() > said:
                said = float("inf")
                output.note("no worker has reported yet: does one run? (`anchorstream lag`)")
            bar.update(*progress_of(found))
            time.sleep(poll_seconds)


def progress_of(found: dict[str, Any] | None) -> tuple[float, str]:
    """For a progress bar: the share done, below 0 = not known; and in words."""
    if found is None:
        return -1.0, "waiting for the workers"
    return found["done"] / max(found["total"], 1), f"{found['done']:,} of {found['total']:,} users"
