"""`anchorstream embed USER --query "…"`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

ANSWER_SECONDS = 5.0
"""For the way to the service and back, beside the wait for a worker."""


def embed(
    user: str,
    *,
    query: Annotated[str, Parameter(help="What the embedding is to be about, in natural language.")],
    prompt: Annotated[str | None, Parameter(help="A soft prompt of the model.")] = None,
    timeout: Annotated[
        float, Parameter(validator=Number(gte=0.001, lte=60), help="Seconds to wait for the user's worker.")
    ] = 5.0,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Show a user's embedding for a query that nobody registered."""
    from deploy import output
    from deploy.operate.answers import write_record
    from deploy.operate.service_client import Service

    common = common or Common()
    service = Service.find(common.settings(), url)
    body: dict[str, Any] = {"user_id": user, "query": query, "timeout_ms": round(timeout * 1000)}
    if prompt is not None:
        body["prompt"] = prompt
    record = service.post("/v1/embed", body, timeout=timeout + ANSWER_SECONDS)
    if common.json:
        output.write_json(record)
        return
    write_record(record)
    output.note("Vectors of different queries are not comparable; for nearest users, register the query as a scenario.")
