"""`anchorstream neighbors USER`."""

from __future__ import annotations

from typing import Annotated, Any

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
    from deploy.commands.embedding import each
    from deploy.service_client import Service

    common = common or Common()
    service = Service.find(common.settings(), url)
    answers = each(service, scenario, lambda name: ask(service, name, user, k, exact=exact))
    if common.json:
        output.write_json(answers[scenario] if scenario else answers)
        return
    scenarios = service.scenarios()
    for name, answer in answers.items():
        write_neighbors(name, scenarios[name]["query"] if name in scenarios else "", answer)


def ask(service: Any, scenario: str, user: str, k: int, *, exact: bool = False) -> dict[str, Any]:
    """The service's answer for one user. Raises NotFoundError where it does not know the user or the scenario."""
    from deploy.service_client import quote
    from store.errors import NotFoundError

    body: dict[str, Any] = {"user_id": user, "k": k}
    if exact:
        body["exact"] = True
    answer: dict[str, Any] = service.post(f"/v1/scenarios/{quote(scenario)}/neighbors", body)
    if answer.get("missing"):
        raise NotFoundError(
            f"user {user!r} has no embedding for {scenario!r}",
            action="`anchorstream lag` tells whether its events are still on the way",
        )
    return answer


def write_neighbors(scenario: str, query: str, answer: dict[str, Any]) -> None:
    """One answer for people."""
    from deploy import output

    rows = [(n["user_id"], round(float(n["score"]), 4)) for n in one_result(answer)]
    output.write_table(("nearest", "score"), rows, title=f"{scenario}: {query}", right=("score",))


def one_result(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Neighbours of the only input."""
    found: list[dict[str, Any]] = answer["results"][0]["neighbors"]
    return found
