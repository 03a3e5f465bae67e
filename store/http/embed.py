"""`POST /v1/embed`: a user's embedding for a query that nobody registered, computed by the worker of the user."""

from __future__ import annotations

import asyncio

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from store.base.query_text import PromptName, QueryText
from store.http.auth import may_read
from store.http.models import UserId
from store.http.problems import KINDS, ProblemError, documented
from store.http.service import Current, CurrentWork
from store.records.embedding import EmbeddingRecord

router = APIRouter(tags=["embeddings"], dependencies=[Depends(may_read)])


class EmbedRequestBody(BaseModel):
    """One user, one query."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    query: QueryText = Field(
        description="what the embedding is about, in natural language: one line; the model reads the first 64 tokens"
    )
    prompt: PromptName | None = Field(default=None, description="a soft prompt of the model")
    timeout_ms: int = Field(default=5000, ge=1, le=60_000, description="how long to wait for a worker")


class QueryEmbedding(BaseModel):
    """A user's embedding for the query asked. Compare it with others of the same `model` only."""

    v: int = Field(description="version of the record's format")
    user_id: str
    query: str
    prompt: str | None
    model: str = Field(description="id of weights, query and prompt")
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


@router.post(
    "/v1/embed",
    response_model=QueryEmbedding,
    responses=documented(
        "user_unknown",
        "prompt_missing",
        "not_ready",
        "restoring",
        "embed_unsent",
        "embed_timeout",
        body=True,
    ),
)
async def embed(service: Current, work: CurrentWork, asked: EmbedRequestBody) -> QueryEmbedding:
    """A user's embedding for any query, from what the user's worker knows now."""
    if service.embedder is None or not service.ready.is_set():
        raise ProblemError("not_ready", "serve is still starting; /readyz tells when it answers")
    # a coroutine waits, not a thread: as many as may be in flight would leave none for other requests
    with work.waits.queries.entered():
        future = service.embedder.ask(asked.user_id, asked.query, asked.prompt, asked.timeout_ms)
        reply = await asyncio.wrap_future(future)
    if reply.record is None:
        if reply.error not in KINDS:
            raise ProblemError("internal", reply.detail, cause=reply.error)
        raise ProblemError(reply.error, reply.detail)
    pending = await run_sync(service.tracker.pending, asked.user_id, reply.record.covers)
    return _answer(asked, reply.record, pending)


def _answer(asked: EmbedRequestBody, record: EmbeddingRecord, pending_events: int) -> QueryEmbedding:
    return QueryEmbedding(
        v=1,
        user_id=record.user_id,
        query=asked.query,
        prompt=asked.prompt,
        model=record.model,
        as_of=record.as_of,
        newest_event=record.newest_event,
        ingested_at=record.ingested_at,
        computed_at=record.computed_at,
        covers=record.covers,
        events=record.events,
        dim=len(record.vector),
        vector=(record.vector / np.linalg.norm(record.vector)).tolist(),  # float16 on its way here
        stale=pending_events > 0,
        pending_events=pending_events,
    )
