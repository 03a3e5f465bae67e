"""What the service says about a user: asked for, and written for people."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from deploy import output
from store.base.errors import NotFoundError
from store.records.scenario_name import split

if TYPE_CHECKING:
    from deploy.operate.service_client import Service

SHOWN_VALUES = 6
NOT_YET_SERVED = (
    "it is in the configuration, but what runs was started without it: stop `anchorstream up` (Ctrl-C there) and start "
    "it again"
)
T = TypeVar("T")


def each(
    service: Service, scenario: str | None, ask: Callable[[str], T], *, configured: Collection[str] = ()
) -> dict[str, T]:
    """What `ask` answers for the scenario, or for all that the service has but candidates'.

    Of several, those that do not know the user are named on standard error: a back-fill may be under way.

    configured: the scenarios of the configuration here, which the service may have been started before.

    Raises:
        NotFoundError: none of them knows the user, or there is no such scenario.
    """
    if scenario is not None:
        try:
            return {scenario: ask(scenario)}
        except NotFoundError as exc:
            if exc.code == "scenario_unknown" and scenario in configured:
                exc.action = NOT_YET_SERVED
            raise
    answers: dict[str, T] = {}
    unknown: list[NotFoundError] = []
    for name in service.scenarios():
        if split(name)[1]:
            continue
        try:
            answers[name] = ask(name)
        except NotFoundError as exc:
            unknown.append(exc)
    if unknown and not answers:
        raise unknown[0]
    for lacking in unknown:
        output.note(lacking.detail)
    return answers


def record_of(service: Service, scenario: str, user: str) -> dict[str, Any]:
    """A user's embedding record. Raises NotFoundError where the service does not know the user or the scenario."""
    from deploy.operate.service_client import quote

    record: dict[str, Any] = service.get(f"/v1/users/{quote(user)}/embeddings/{quote(scenario)}")
    return record


def write_record(record: dict[str, Any]) -> None:
    """One record for people."""
    vector = record["vector"]
    start = ", ".join(f"{value:+.4f}" for value in vector[:SHOWN_VALUES])
    events = ", ".join(f"{count} {name}" for name, count in record["events"].items())
    output.write_pairs(
        {
            "user": record["user_id"],
            **({"query": record["query"]} if "query" in record else {"scenario": record["scenario"]}),
            "model": record["model"],
            "newest event": output.moment(record.get("newest_event", record["as_of"])),
            "stands at": output.moment(record["as_of"]),
            "computed": output.moment(record["computed_at"]),
            "events": events or "none",
            "covers": ", ".join(f"{source}:{offset}" for source, offset in record["covers"].items()),
            "stale": bool(record.get("stale", False)),
            "pending events": record.get("pending_events"),
            f"vector ({len(vector)})": f"[{start}, …]",
            "": "",
        }
    )


def neighbors_of(service: Service, scenario: str, user: str, k: int, *, exact: bool = False) -> dict[str, Any]:
    """The nearest users. Raises NotFoundError where the service does not know the user or the scenario."""
    from deploy.operate.service_client import quote

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
    found: list[dict[str, Any]] = answer["results"][0]["neighbors"]
    rows = [(n["user_id"], round(float(n["score"]), 4)) for n in found]
    output.write_table(("nearest", "score"), rows, title=f"{scenario}: {query}", right=("score",))
