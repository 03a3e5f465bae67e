"""`anchorstream embedding USER`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.service_client import Service

SHOWN_VALUES = 6
T = TypeVar("T")


def embedding(
    user: str,
    *,
    scenario: Annotated[str | None, Parameter(help="One scenario; default: all but candidates'.")] = None,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Show a user's embedding record."""
    from deploy import output
    from deploy.service_client import Service, quote

    common = common or Common()
    settings = common.settings()
    service = Service.find(settings, url)
    records = each(
        service, scenario, lambda name: service.get(f"/v1/users/{quote(user)}/embeddings/{quote(name)}")
    ).values()
    if common.json:
        output.write_json(next(iter(records)) if scenario else list(records))
        return
    for record in records:
        write_record(record)


def each(service: Service, scenario: str | None, ask: Callable[[str], T]) -> dict[str, T]:
    """What `ask` answers for the scenario, or for all that the service has but candidates'.

    Of several, those that do not know the user are named on standard error: a back-fill may be under way.

    Raises:
        NotFoundError: none of them knows the user.
    """
    from deploy import output
    from store.errors import NotFoundError
    from store.scenario_name import split

    if scenario is not None:
        return {scenario: ask(scenario)}
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


def write_record(record: dict[str, Any]) -> None:
    """One record for people."""
    from deploy import output

    vector = record["vector"]
    start = ", ".join(f"{value:+.4f}" for value in vector[:SHOWN_VALUES])
    events = ", ".join(f"{count} {name}" for name, count in record["events"].items())
    output.write_pairs(
        {
            "user": record["user_id"],
            **({"query": record["query"]} if "query" in record else {"scenario": record["scenario"]}),
            "model": record["model"],
            "newest event": output.moment(record["as_of"]),
            "computed": output.moment(record["computed_at"]),
            "events": events or "none",
            "covers": ", ".join(f"{source}:{offset}" for source, offset in record["covers"].items()),
            "stale": bool(record.get("stale", False)),
            "pending events": record.get("pending_events"),
            f"vector ({len(vector)})": f"[{start}, …]",
            "": "",
        }
    )
