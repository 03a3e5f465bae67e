"""Bodies of requests and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.base.query_text import PromptName, QueryText
from store.base.user_id import PATTERN
from store.index.row_table import StoredRecord
from store.records.embedding import DIM

MAX_QUERIES = 256
MAX_NEIGHBORS = 50_000
"""Of all inputs of one request together: an answer of some 5 MB."""
MAX_LISTED = 100_000
SCHEMAS: dict[str, dict[str, Any]] = {}
"""Of bodies that FastAPI does not parse, by name."""
UserId = Annotated[str, Field(pattern=PATTERN)]


class Embedding(BaseModel):
    """A user's embedding record, and how current it is."""

    v: int = Field(description="version of the record's format")
    user_id: str
    scenario: str
    model: str = Field(description="id of weights and prompt")
    as_of: int = Field(description="time at which the vector stands, ms: later than the newest event in a silence")
    newest_event: int = Field(description="time of the newest event covered, ms")
    ingested_at: int = Field(description="newest ingestion time covered, ms")
    computed_at: int = Field(description="ms")
    covers: dict[str, int] = Field(description='{"topic:partition": last raw offset covered for this user}')
    events: dict[str, int] = Field(description="events in the window per modality")
    dim: int
    vector: list[float] = Field(description="float32, unit length")
    stale: bool = Field(description="whether accepted events of this user are not yet covered")
    pending_events: int = Field(description="how many")
    other_query: bool = Field(
        default=False, description="whether a worker computes another query for this scenario than serve has"
    )


class EmbeddingPage(BaseModel):
    """A page of a scenario's embeddings in order of user id, each as it was when the page was read."""

    embeddings: list[Embedding]
    next: str | None = Field(description="`after` of the next page; null = this was the last")


_INPUTS = ("user_id", "user_ids", "vector", "vectors")
_ONE_INPUT = [
    {
        "required": [given],
        "properties": {
            given: {"not": {"type": "null"}},
            **{other: {"type": "null"} for other in _INPUTS if other != given},
            **({"model": {"type": "null"}} if given.startswith("user") else {}),
        },
    }
    for given in _INPUTS
]
"""What JSON Schema says of it: one is given and not null, and a model goes with vectors only."""
Vector = Annotated[list[float], Field(min_length=DIM, max_length=DIM, fail_fast=True)]


class NeighborsRequest(BaseModel):
    """Exactly one of user_id, user_ids, vector and vectors."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"oneOf": _ONE_INPUT})  # type: ignore[dict-item]

    user_id: UserId | None = None
    user_ids: Annotated[list[UserId], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    vector: Vector | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    k: int = Field(default=10, ge=1, description=f"at most serve.max_k; times the inputs, at most {MAX_NEIGHBORS}")
    exclude_self: bool = Field(default=True, description="leave a user out of their own answer")
    allow: Annotated[list[UserId], Field(max_length=MAX_LISTED, fail_fast=True)] | None = Field(
        default=None, description="only these users"
    )
    deny: Annotated[list[UserId], Field(max_length=MAX_LISTED, fail_fast=True)] = Field(
        default_factory=list, description="never these users; the answer is filled up to k with others"
    )
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    exact: bool = Field(default=False, description="force an exact search; `exact` of the answer says what was done")
    model: str | None = Field(default=None, description="for vectors: search this model's rows, not the main one's")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        given = [name for name in _INPUTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of user_id, user_ids, vector and vectors; got {given or 'none'}")
        inputs = len(self.user_ids or self.vectors or [""])
        if self.k * inputs > MAX_NEIGHBORS:
            raise ValueError(f"k = {self.k} of {inputs} inputs are more than {MAX_NEIGHBORS} neighbours in all")
        if self.model is not None and (self.user_id is not None or self.user_ids is not None):
            raise ValueError("model goes with vectors; a user is compared within the model of their own embedding")
        return self


class Neighbor(BaseModel):
    """score: cosine in [-1, 1]."""

    user_id: str
    score: float


class NeighborsOf(BaseModel):
    """Best first; equal scores in order of user id."""

    user_id: str | None = Field(description="null for a vector")
    model: str | None = Field(description="only users with embeddings of this model are compared")
    eligible: int = Field(description="users that took part in the search; fewer than k neighbors = no more there")
    neighbors: list[Neighbor]


class NeighborsAnswer(BaseModel):
    """One result per input, in the order asked; users without an embedding are in `missing` instead."""

    scenario: str
    k: int
    exact: bool
    generation: int = Field(description="grows with every batch applied to the index")
    applied: dict[int, int] = Field(
        description="next offset per partition of the scenario's topic; every record below it was searched"
    )
    results: list[NeighborsOf]
    missing: list[str]
    other_query: bool = Field(
        default=False, description="whether a worker computes another query for this scenario than serve has"
    )


class ScenarioBody(BaseModel):
    """What a scenario is."""

    model_config = ConfigDict(extra="forbid")

    query: QueryText = Field(
        description="the question that embeddings are conditioned on, in natural language: one line"
    )
    prompt: PromptName | None = Field(default=None, description="a tuned soft prompt of the model")


class PartitionBackFill(BaseModel):
    """How far one partition's worker is with bringing its users to a scenario's model."""

    partition: int
    model: str | None = Field(description="id of weights, query and prompt; null where it cannot be computed")
    done: int
    total: int = Field(description="users when the back-fill began")
    complete: bool
    error: str | None = Field(description="why the worker cannot compute the scenario, `code: detail`")
    updated_at: int = Field(description="ms")


class BackFillProgress(BaseModel):
    """How far the workers are with bringing every user to a scenario's newest query and model."""

    done: int = Field(description="users, of the partitions that have reported")
    total: int
    complete: bool = Field(description="everybody is done, in every partition, and queryable")
    partitions: list[PartitionBackFill] = Field(description="those that have reported")


class Scenario(BaseModel):
    """One use of the embeddings, and its index. `NAME@CANDIDATE`: as a candidate model computes it."""

    name: str
    query: str
    prompt: str | None
    registered: bool = Field(description="at run time; else it is of the configuration")
    back_fill: BackFillProgress | None = Field(description="null while no worker has reported on this query")
    other_query: list[int] = Field(
        description="partitions whose workers compute another query or prompt than serve is configured with"
    )
    model: str | None = Field(description="the model of most users; null while there are none")
    models: dict[str, int] = Field(description="users per model")
    users: int
    generation: int
    applied: dict[int, int]


class Scenarios(BaseModel):
    """All scenarios by name."""

    scenarios: list[Scenario]


class Health(BaseModel):
    """status: `ok`."""

    status: str = "ok"
    warnings: list[str] = Field(default=[], description="what is answered, but not as it is configured")


def to_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A reference to a model in the API's description, which `SCHEMAS` then has to be part of."""
    SCHEMAS[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def to_json(head: BaseModel, **lists: Iterable[BaseModel]) -> bytes:
    """A model's JSON with these of its lists in place of its own.

    They are written item by item: one call for all would hold the interpreter, and so every other request, as long.
    """
    parts = [head.model_dump_json(exclude=set(lists))[:-1]]
    for name, items in lists.items():
        parts.append(f'"{name}":[' + ",".join(item.model_dump_json() for item in items) + "]")
    return (",".join(parts) + "}").encode()


def to_embedding(stored: StoredRecord, pending_events: int, *, other_query: bool) -> Embedding:
    """The body of a stored record. other_query: as of its scenario."""
    record = stored.record
    return Embedding(
        v=1,
        user_id=record.user_id,
        scenario=record.scenario,
        model=record.model,
        as_of=record.as_of,
        newest_event=record.newest_event,
        ingested_at=record.ingested_at,
        computed_at=record.computed_at,
        covers=record.covers,
        events=record.events,
        dim=len(record.vector),
        vector=record.vector.tolist(),
        stale=pending_events > 0,
        pending_events=pending_events,
        other_query=other_query,
    )
