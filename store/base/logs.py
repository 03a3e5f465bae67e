"""Structured logs: one line per decision. JSON when standard error is not a terminal.

Event names are the constants below and nothing else; user ids go through `user()`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

from store.base import disk
from store.base.errors import AnchorstreamError, ConfigError

ROLE_STARTED = "role_started"
ROLE_READY = "role_ready"
ROLE_STOPPING = "role_stopping"
ROLE_STOPPED = "role_stopped"
ROLE_FAILED = "role_failed"
ROLE_DIED = "role_died"
ROLE_RESTARTED = "role_restarted"
BROKER_STARTED = "broker_started"
BROKER_STOPPED = "broker_stopped"
BROKER_ORPHANED = "broker_orphaned"
BROKER_REPLACED = "broker_replaced"
BROKER_RESTORING = "broker_restoring"
BROKER_RESTORED = "broker_restored"
BROKER_KEEPS_NOTHING = "broker_keeps_nothing"
BROKER_UNAVAILABLE = "broker_unavailable"
TOPIC_CREATED = "topic_created"
TOPIC_DENIED = "topic_denied"
TOPIC_DIFFERS = "topic_differs"
TOPICS_AS_CONFIGURED = "topics_as_configured"
TOPIC_MADE_ANEW = "topic_made_anew"
TOPIC_MISSING = "topic_missing"
GROUP_NOT_LEFT = "group_not_left"
CLIENT_REPLACED = "client_replaced"
CLIENT_THROTTLED = "client_throttled"
CLOCK_WENT_BACK = "clock_went_back"
MESSAGES_REMOVED = "messages_removed"
PARTITIONS_ASSIGNED = "partitions_assigned"
PARTITIONS_REVOKED = "partitions_revoked"
PARTITION_USABLE = "partition_usable"
PARTITION_FENCED = "partition_fenced"
EVENT_DEAD_LETTERED = "event_dead_lettered"
FIELDS_MISSING = "fields_missing"
EVENT_CONFLICTING = "event_conflicting"
INPUT_PAUSED = "input_paused"
INPUT_RESUMED = "input_resumed"
BUFFER_OPENED = "buffer_opened"
BUFFER_CLOSED = "buffer_closed"
BUFFER_RESTORED = "buffer_restored"
BUFFER_REINDEXED = "buffer_reindexed"
BUFFER_ACCEPTS_SINCE = "buffer_accepts_since"
STATE_REMOVED = "state_removed"
STATE_SET_ASIDE = "state_set_aside"
PARTITION_OWNED = "partition_owned"
STANDBY_FOLLOWS = "standby_follows"
STANDBY_FAILED = "standby_failed"
STALE_ROWS = "stale_rows"
BATCH_FAILED = "batch_failed"
BATCH_APPLIED = "batch_applied"
MODEL_LOADED = "model_loaded"
MODEL_UNTRAINED = "model_untrained"
QUERY_DIFFERS = "query_differs"
QUERY_TRUNCATED = "query_truncated"
USERS_REFRESHED = "users_refreshed"
BACK_FILL_STARTED = "back_fill_started"
BACK_FILL_DONE = "back_fill_done"
SCENARIO_UNUSABLE = "scenario_unusable"
SCENARIO_REGISTERED = "scenario_registered"
SCENARIO_CHANGED = "scenario_changed"
SCENARIO_RETIRED = "scenario_retired"
REGISTRATION_IGNORED = "registration_ignored"
SNAPSHOT_WRITTEN = "snapshot_written"
SNAPSHOT_LOADED = "snapshot_loaded"
SNAPSHOT_REFUSED = "snapshot_refused"
SNAPSHOT_FAILED = "snapshot_failed"
SNAPSHOT_NOT_REMOVED = "snapshot_not_removed"
INDEX_RESTORED = "index_restored"
CLOCK_MOVED = "clock_moved"
COMMIT_TOO_LARGE = "commit_too_large"
CAUGHT_UP = "caught_up"
RECORD_REFUSED = "record_refused"
EMBED_REQUEST_REFUSED = "embed_request_refused"
EMBED_REQUEST_LOST = "embed_request_lost"
EMBED_REPLY_REFUSED = "embed_reply_refused"
EMBED_REPLY_LOST = "embed_reply_lost"
HTTP_FAILED = "http_failed"
LAG_STATUS_CHANGED = "lag_status_changed"
LAG_READABLE = "lag_readable"
LAG_UNKNOWN = "lag_unknown"
LAG_UNREADABLE = "lag_unreadable"
UNRAISABLE = "unraisable"

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_plain_user_ids = False
_as_json = False


def configure(role: str, *, level: str | None = None, json: bool | None = None, plain_user_ids: bool = False) -> None:
    """Set up logging of this process, to standard error.

    Args:
        role: bound to every line.
        level: DEBUG … ERROR; default from ANCHORSTREAM_LOG_LEVEL, else INFO.
        json: force JSON on or off; default: on unless standard error is a terminal.
        plain_user_ids: log user ids as they are (for development only).

    Raises:
        ConfigError: there is no such level; logs are set up all the same.
    """
    global _plain_user_ids, _as_json
    _plain_user_ids = plain_user_ids
    wanted = (level or os.environ.get("ANCHORSTREAM_LOG_LEVEL") or "INFO").upper()
    name = wanted if wanted in LEVELS else "INFO"
    _as_json = as_json = not sys.stderr.isatty() if json is None else json

    def with_role(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("role", role)  # not a context variable: threads do not inherit those
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        with_role,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    tail: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(name)
    for noisy in ("aiokafka", "faust", "mode", "httpx", "uvicorn.access", "transformers"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # lines are few, and a later `configure` must hold for all
    )
    if name != wanted:
        raise ConfigError(f"ANCHORSTREAM_LOG_LEVEL = {wanted!r} is no level", action=f"one of: {', '.join(LEVELS)}")


def as_json() -> bool:
    """Whether this process' standard error is lines of JSON, and nothing else may stand there."""
    return _as_json


def catch_all(**where: Any) -> None:
    """From now on warnings, and what nobody catches (in threads too), are lines of the log, if that is JSON.

    where: goes into each line.
    """
    if not _as_json:
        return

    def uncaught(kind: type[BaseException], exc: BaseException | None, trace: TracebackType | None) -> None:
        if exc is not None and not issubclass(kind, SystemExit | KeyboardInterrupt):
            failed(exc if exc.__traceback__ else exc.with_traceback(trace), **where)

    def unraisable(of: Any) -> None:
        get(__name__).error(UNRAISABLE, what=repr(of.object), exc_info=(of.exc_type, of.exc_value, of.exc_traceback))

    sys.excepthook = uncaught
    threading.excepthook = lambda of: uncaught(of.exc_type, of.exc_value, of.exc_traceback)
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)


def failed(exc: BaseException, **where: Any) -> None:
    """The line of what this process cannot go on with."""
    log = get(__name__)
    exc = disk.refused(exc) or exc
    if isinstance(exc, AnchorstreamError):
        log.critical(ROLE_FAILED, **where, error=exc.code, detail=exc.detail, action=exc.action)
    else:
        log.critical(ROLE_FAILED, **where, error="unexpected", exc_info=(type(exc), exc, exc.__traceback__))


def last_words(exc: Exception) -> int:
    """Tell what ends this process, as its log is told; the exit code. For people, what is not expected is raised."""
    if as_json():
        failed(exc)
    elif isinstance(exc, AnchorstreamError):
        sys.stderr.write(f"error [{exc.code}]: {exc}\n")
    else:
        raise exc
    return exc.exit_code if isinstance(exc, AnchorstreamError) else 1


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def user(user_id: str) -> str:
    """A user id as it may appear in a log: hashed, unless `plain_user_ids`."""
    return user_id if _plain_user_ids else "u:" + hashlib.blake2b(user_id.encode(), digest_size=6).hexdigest()
