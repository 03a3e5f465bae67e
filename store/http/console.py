"""`GET /`: a plain page for people. Server-rendered, no scripts, no build; it renews itself every few seconds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from datetime import UTC, datetime
from html import escape
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from store.http.auth import may_read
from store.http.models import Scenario
from store.http.pools import Stop
from store.http.problems import ProblemError
from store.http.scenarios import describe_all
from store.http.service import Current, CurrentWork, Service, Work

REFRESH_SECONDS = 5
LAG_SECONDS = 2.0
"""The rest of the page does not wait longer for a reading of lag and of the account."""
NEIGHBORS = 10
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
form { display: flex; gap: .5rem; flex-wrap: wrap; margin: 1rem 0 }
input, select, button { font: inherit; padding: .25rem .5rem }
code { overflow-wrap: anywhere } .warn { color: #c40 }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

router = APIRouter(dependencies=[Depends(may_read)])


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def console(
    request: Request,
    service: Current,
    work: CurrentWork,
    user: Annotated[str, Query(max_length=128)] = "",
    scenario: Annotated[str, Query(max_length=127)] = "",
    lookup: bool = False,
) -> HTMLResponse:
    """Scenarios, freshness and lag; with `user` (or `lookup`) the look-up, which does not renew itself."""
    asking = lookup or bool(user)
    # a page that renews itself would wipe what is being typed
    refresh = "" if asking else f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
    parts = [_form(service, user, scenario)]
    if user:
        parts.append(await work.pools.searches.run(request, lambda stop: _user(service, user, scenario, stop)))
    if not asking:
        parts += await work.pools.overviews.run(
            request, lambda _: [_scenarios(service), _freshness(service), _fields(service)]
        )
        parts += await asyncio.gather(_lag(work), _account(work))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>anchorstream</title>{refresh}'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><h1>anchorstream</h1>"
        f'<p>{now} · <a href="/">overview</a> · <a href="/?lookup=true">look a user up</a> · '
        f'<a href="/openapi.json">API</a> · <a href="/metrics">metrics</a></p>{"".join(parts)}</body></html>'
    )
    return HTMLResponse(page, headers=HEADERS)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """Numbers are right-aligned; everything is escaped but `_Html`."""
    numeric = [bool(rows) and isinstance(value, int | float) for value in (rows[0] if rows else head)]
    cells = "".join(f"<th{_n(is_n)}>{escape(name)}</th>" for name, is_n in zip(head, numeric, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_n(is_n)}>{_cell(value)}</td>" for value, is_n in zip(row, numeric, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


class _Html(str):
    """Already escaped."""

    __slots__ = ()


def _cell(value: Any) -> str:
    if isinstance(value, _Html):
        return value
    if value is None:
        return "–"
    return escape(
        f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    )


def _n(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _form(service: Service, user: str, scenario: str) -> str:
    options = "".join(
        f'<option value="{escape(name)}"{" selected" if name == scenario else ""}>{escape(name)}</option>'
        for name in sorted(service.catalog)
    )
    return (
        f'<form action="/" method="get"><input name="user" maxlength="128" placeholder="user id" required '
        f'aria-label="user id" value="{escape(user)}"><select name="scenario" aria-label="scenario">{options}</select>'
        "<button>look up</button></form>"
    )


def _scenarios(service: Service) -> str:
    try:
        found = describe_all(service)
    except ProblemError as exc:
        return _warning(exc)
    return "<h2>Scenarios</h2>" + _table(
        ["scenario", "", "query", "model", "users", "back-fill"],
        [
            [s.name, "registered" if s.registered else "configured", s.query, _models(s), s.users, _back_fill(s)]
            for s in found
        ],
    )


def _models(scenario: Scenario) -> str:
    more = len(scenario.models) - 1
    return (scenario.model or "–") + (f" (+{more} older)" if more > 0 else "")


def _back_fill(scenario: Scenario) -> str:
    found = scenario.back_fill
    if scenario.other_query:
        return f"another query in the workers of partitions {', '.join(map(str, scenario.other_query))}"
    if found is None:
        return "not reported"
    if faults := sorted({part.error for part in found.partitions if part.error}):
        return "; ".join(faults)
    return "complete" if found.complete else f"{found.done:,} of {found.total:,} users"


def _freshness(service: Service) -> str:
    report = service.tracker.report(now_ms=time.time_ns() // 1_000_000)
    recent = report["recent"]
    names = {"p50": "p50, s", "p99": "p99, s", "max": "max, s"}
    values = [recent.get(key) for key in names]
    head = [
        *names.values(),
        f"events, last {recent['seconds'] // 60} min",
        "events, all",
        "pending",
        "oldest pending, s",
    ]
    counts = [recent["count"], report["all"]["count"], report["pending_events"], report["oldest_pending_seconds"]]
    return "<h2>Freshness: raw event → queryable</h2>" + _table(head, [[*values, *counts]])


def _fields(service: Service) -> str:
    title = "<h2>Fields: share of the last events that carry them</h2>"
    shares = service.fields.shares(now_ms=time.time_ns() // 1_000_000)
    if not shares:
        return title + "<p>Not reported yet: ingest counts for a minute, and 20 events of a modality at least.</p>"
    head = ["modality", "field", "carried by", "events", "counted"]
    rows = [[s.modality, s.field, _share(s.share), s.events, _moment(s.at_ms)] for s in shares]
    return title + _table(head, rows)


def _share(share: float) -> _Html:
    # rounded down: 99.9 % is not all
    text = f"{int(share * 100 + 1e-9)} %" if share >= 0.01 or not share else "under 1 %"
    return _Html(text if share else f'<span class="warn">{text}</span>')


async def _lag(work: Work) -> str:
    try:
        with work.waits.readings.entered():
            report = await work.lag.get(wait_seconds=LAG_SECONDS)
    except ProblemError as exc:
        return "<h2>Lag</h2>" + _warning(exc)
    names = ["role", "group", "lag_messages", "lag_seconds", "users_left", "drain_seconds", "status"]
    rows = [[group.get(name) for name in names] for group in report.get("groups", [])]
    refused = report.get("refused", 0)
    said = f'<p class="warn">refused: {refused:,}; see below</p>' if refused else ""
    said += "".join(f'<p class="warn">topic settings: {escape(line)}</p>' for line in report.get("topic_faults", ()))
    return "<h2>Lag</h2>" + _table([name.replace("_", " ") for name in names], rows) + said


async def _account(work: Work) -> str:
    title = "<h2>Account: what became of what was published</h2>"
    try:
        with work.waits.readings.entered():
            report = await work.account.get(wait_seconds=LAG_SECONDS)
    except ProblemError as exc:
        return title + _warning(exc)
    topics = [
        [t["topic"], t["published"], t["accepted"], _parts(t["refused"]), _parts(t["skipped"]), t["passed_over"],
         t["unread"], None if t["since"] is None else _moment(t["since"])]
        for t in report["topics"]
    ]  # fmt: skip
    names = ["accepted", "applied", "duplicate", "conflicting", "expired", "evicted", "remembered"]
    modalities = [
        [m["topic"], m["modality"], *(m[name] for name in names), _parts(m["refused"]), m["unprocessed"]]
        for m in report["modalities"]
    ]
    head = ["raw topic", "published", "accepted", "refused", "skipped", "passed over", "not yet read", "since"]
    lines = "".join(f"<p>{escape(line)}</p>" for line in report["lines"])
    wrong = "" if report["adds_up"] else '<p class="warn">This does not add up.</p>'
    return (
        title
        + _table(head, topics)
        + _table(["raw topic", "modality", "accepted", "new", *names[2:], "refused", "not yet processed"], modalities)
        + lines
        + wrong
    )


def _parts(counts: dict[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {n:,}" for name, n in found) or "0"


def _user(service: Service, user: str, scenario: str, stop: Stop) -> str:
    try:
        index = service.index(scenario)
    except ProblemError as exc:
        return _warning(exc)
    stored = index.get(user)
    if stored is None:
        return f'<p class="warn">No embedding of <code>{escape(user)}</code> for {escape(scenario)}.</p>'
    record = stored.record
    pending = service.tracker.pending(user, record.covers)
    facts = [
        ["model", record.model],
        ["newest event", _moment(record.newest_event)],
        ["stands at", _moment(record.as_of)],
        ["computed", _moment(record.computed_at)],
        ["events", ", ".join(f"{count} {name}" for name, count in sorted(record.events.items())) or "none"],
        ["pending events", str(pending)],
        ["vector", " ".join(f"{value:+.3f}" for value in record.vector[:8].tolist()) + " …"],
    ]
    answers = index.search_users([user], k=NEIGHBORS, stop=stop).answers  # none if the user has gone since `get`
    near = [neighbor for answer in answers for neighbor in answer.neighbors]
    rows = [[_link(neighbor.user_id, scenario), neighbor.score] for neighbor in near]
    title = f"<h2>{escape(user)} · {escape(scenario)}</h2>"
    return title + _table(["", ""], facts) + "<h2>Nearest users</h2>" + _table(["user", "cosine"], rows)


def _link(user: str, scenario: str) -> _Html:
    return _Html(f'<a href="/?user={quote(user, safe="")}&amp;scenario={quote(scenario)}">{escape(user)}</a>')


def _warning(exc: ProblemError) -> str:
    return f'<p class="warn">{escape(exc.detail)}</p>'


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(ms)
