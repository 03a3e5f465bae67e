"""`anchorstream embedding USER`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from deploy.commands.common import Common

SHOWN_VALUES = 6


def embedding(
    user: str,
    *,
    scenario: Annotated[str | None, Parameter(help="One scenario; default: all.")] = None,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Show a user's embedding record."""
    from deploy import output
    from deploy.service_client import Service, quote

    common = common or Common()
    settings = common.settings()
    service = Service.find(settings, url)
    names = [scenario] if scenario else list(settings.scenarios)
    records = [service.get(f"/v1/users/{quote(user)}/embeddings/{quote(name)}") for name in names]
    if common.json:
        output.write_json(records[0] if scenario else records)
        return
    for record in records:
        write_record(record)


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
