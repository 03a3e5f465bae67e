"""Every Prometheus metric of the system, in base units. No user id is ever a label.

A metric without labels has a value, 0, wherever this module is imported; so a role exports its own only. Of one
with labels a process exports what it has measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_POWERS = tuple(float(2**i) for i in range(0, 17, 2))

READY = Gauge("anchorstream_ready", "1 once the role works (assigned, restored, consuming), 0 before.", ["role"])
EVENTS_ACCEPTED = Counter("anchorstream_events_accepted_total", "Raw events accepted by ingest.", ["modality"])
EVENTS_DEAD_LETTERED = Counter("anchorstream_events_dead_lettered_total", "Raw events refused.", ["code"])
EVENTS_SKIPPED = Counter(
    "anchorstream_events_skipped_total", "Raw events that their topic's mapping passes over.", ["topic", "reason"]
)
VALUES_CONVERTED = Counter(
    "anchorstream_values_converted_total",
    "Values of raw events taken as their topic's mapping says: number_from_text, empty_is_absent.",
    ["topic", "how"],
)
FIELD_PRESENT = Gauge(
    "anchorstream_field_present_ratio",
    "Share of a modality's last events, of a minute or more, that carried a field which the configuration names.",
    ["modality", "field"],
)
EVENTS_APPLIED = Counter(
    "anchorstream_events_applied_total", "Events that reached the token buffer, by outcome.", ["outcome"]
)
TEXTS_ENCODED = Counter("anchorstream_texts_encoded_total", "Texts run through the text encoder.")
TEXT_CACHE_HITS = Counter("anchorstream_text_cache_hits_total", "Texts answered from the cache.")
BATCH_SECONDS = Histogram("anchorstream_batch_seconds", "Duration of one batch.", ["role"], buckets=_SECONDS)
BATCH_EVENTS = Histogram("anchorstream_batch_events", "Events in one batch.", ["role"], buckets=_POWERS)
REBALANCE_SECONDS = Histogram(
    "anchorstream_rebalance_seconds",
    "One partition: taken from this process, or given to it → usable again, its state restored.",
    ["role"],
    buckets=_SECONDS,
)
RESTORED_ROWS = Counter("anchorstream_restored_rows_total", "Rows applied from the `tokens` log.")
STATE_SET_ASIDE = Counter(
    "anchorstream_state_set_aside_total", "Token buffers found damaged, set aside and restored from `tokens`."
)
STANDBY_PARTITIONS = Gauge("anchorstream_standby_partitions", "Partitions of others that a standby keeps up to date.")
STANDBY_ROWS = Counter("anchorstream_standby_rows_total", "Rows that a standby applied as they came.")
DIRTY_USERS = Gauge("anchorstream_dirty_users", "Users waiting for a refresh.")
PENDING_TOKENS = Gauge("anchorstream_pending_tokens", "Tokens waiting to be computed.")
PENDING_SECONDS = Gauge("anchorstream_pending_seconds", "Time the waiting tokens take at the measured rate.")
REFRESHED_USERS = Counter("anchorstream_refreshed_users_total", "User refreshes computed.")
REFRESH_SECONDS = Histogram("anchorstream_refresh_seconds", "Duration of one refresh batch.", buckets=_SECONDS)
FENCED = Counter("anchorstream_fenced_total", "Transactions of the worker that were refused: another owner, or none.")
KV_PAGES = Counter("anchorstream_kv_pages_total", "KV pages asked for, by result.", ["result"])
KV_POOL_BYTES = Gauge("anchorstream_kv_pool_bytes", "Bytes of KV pages held.")
EMBEDDINGS_PUBLISHED = Counter("anchorstream_embeddings_published_total", "Embedding records published.", ["scenario"])
EMBED_REQUESTS = Counter(
    "anchorstream_embed_requests_total",
    "Ad-hoc queries that reached the worker: answered, expired, unreadable, or the code of the refusal.",
    ["outcome"],
)
EMBED_REPLIES_LOST = Counter("anchorstream_embed_replies_lost_total", "Answers to ad-hoc queries not delivered.")
BACK_FILLED_USERS = Counter(
    "anchorstream_back_filled_users_total", "Users that a back-fill computed and published.", ["scenario"]
)
BACK_FILL_USERS_LEFT = Gauge(
    "anchorstream_back_fill_users_left", "Users that this worker has still to back-fill.", ["scenario"]
)
SILENT_USERS = Counter(
    "anchorstream_silent_users_total", "Users embedded again because time passed without events of theirs."
)
SILENCE_BEHIND_SECONDS = Gauge(
    "anchorstream_silence_behind_seconds",
    "Stream time by which this worker is behind with silent users, of its hindmost partition.",
)
SCENARIO_UNUSABLE = Gauge(
    "anchorstream_scenario_unusable",
    "1 while this worker cannot compute a registered scenario; its log says why.",
    ["scenario"],
)
OTHER_QUERY = Gauge(
    "anchorstream_other_query",
    "1 while a worker computes another query for this scenario than this serve has; its log says which partitions.",
    ["scenario"],
)
INDEX_VECTORS = Gauge("anchorstream_index_vectors", "Live vectors.", ["scenario"])
INDEX_UPSERTS = Counter("anchorstream_index_upserts_total", "Records applied to the index.", ["scenario"])
INDEX_REFUSED = Counter(
    "anchorstream_index_refused_total", "Records of `embeddings.*` that were not applied.", ["scenario", "reason"]
)
SNAPSHOT_FAILURES = Counter(
    "anchorstream_snapshot_failures_total", "Snapshots of the indexes that could not be written."
)
FRESHNESS_SECONDS = Histogram(
    "anchorstream_freshness_seconds", "Raw event produced → its embedding queryable.", buckets=_SECONDS
)
CLIENTS_REPLACED = Counter(
    "anchorstream_clients_replaced_total",
    "Clients that stood still though another client did not.",
)
THROTTLED_SECONDS = Counter(
    "anchorstream_throttled_seconds_total",
    "For how long the broker held clients of this process back, by its quotas.",
)
SERVE_BEHIND_SECONDS = Gauge(
    "anchorstream_serve_behind_seconds",
    "Since this serve last saw the end of the partition of `embeddings.*` that it is furthest behind in.",
)
PENDING_EVENTS = Gauge("anchorstream_pending_events", "Accepted events not yet covered by every scenario.")
HTTP_SECONDS = Histogram(
    "anchorstream_http_request_seconds", "HTTP requests.", ["method", "route", "status"], buckets=_SECONDS
)
HTTP_BUSY = Counter(
    "anchorstream_http_busy_total", "Requests refused because too many of their kind were waiting.", ["kind"]
)
HTTP_CONNECTIONS = Gauge("anchorstream_http_connections", "Open connections of the HTTP service.")
HTTP_CUT = Counter(
    "anchorstream_http_connections_cut_total",
    "Connections that serve ended: full, evicted (too many), linger, head, body, answer (too slow), malformed.",
    ["reason"],
)
LAG_MESSAGES = Gauge("anchorstream_lag_messages", "end - committed.", ["group", "topic", "partition"])
LAG_SECONDS = Gauge(
    "anchorstream_lag_seconds", "Now - timestamp of the first uncommitted record.", ["group", "topic", "partition"]
)
LAG_STATUS = Gauge(
    "anchorstream_lag_status",
    "0 ok, 1 unknown, 2 open_transaction, 3 slow, 4 no_commit, 5 stalled, 6 stopped, 7 ahead, 8 rewound (docs/lag.md).",
    ["group", "topic", "partition"],
)
RETENTION_HEADROOM = Gauge(
    "anchorstream_retention_headroom_messages",
    "committed - log start; below 0 = messages were deleted unread.",
    ["group", "topic", "partition"],
)
GROUP_MEMBERS = Gauge("anchorstream_group_members", "Members of a consumer group.", ["group"])
LAG_READ_UP = Gauge(
    "anchorstream_lag_up", "1 if the last reading of lag succeeded; 0 = lag, status and headroom are stale."
)
LAG_UNREADABLE = Gauge(
    "anchorstream_lag_unreadable",
    "Groups, topics and partitions that the last reading of lag could not see, topics that are not there among them.",
)
TOPIC_FAULTS = Gauge(
    "anchorstream_topic_faults",
    "Settings of our topics with which data will be lost, and topics that are not there; the monitor's log names them.",
)
LAG_READ_SECONDS = Histogram("anchorstream_lag_read_seconds", "Duration of one reading of lag.", buckets=_SECONDS)

WITHOUT_LABELS: dict[str, tuple[MetricWrapperBase, ...]] = {
    "ingest": (CLIENTS_REPLACED, THROTTLED_SECONDS),
    "processor": (
        CLIENTS_REPLACED, RESTORED_ROWS, STANDBY_PARTITIONS, STANDBY_ROWS, STATE_SET_ASIDE, TEXTS_ENCODED,
        TEXT_CACHE_HITS, THROTTLED_SECONDS,
    ),
    "worker": (
        CLIENTS_REPLACED, DIRTY_USERS, EMBED_REPLIES_LOST, FENCED, KV_POOL_BYTES, PENDING_SECONDS, PENDING_TOKENS,
        REFRESHED_USERS, REFRESH_SECONDS, RESTORED_ROWS, SILENCE_BEHIND_SECONDS, SILENT_USERS, STATE_SET_ASIDE,
        TEXTS_ENCODED, TEXT_CACHE_HITS, THROTTLED_SECONDS,
    ),
    "serve": (
        FRESHNESS_SECONDS, HTTP_CONNECTIONS, PENDING_EVENTS, CLIENTS_REPLACED, SERVE_BEHIND_SECONDS, SNAPSHOT_FAILURES,
        THROTTLED_SECONDS,
    ),
    "monitor": (LAG_READ_UP, LAG_READ_SECONDS, LAG_UNREADABLE, CLIENTS_REPLACED, THROTTLED_SECONDS, TOPIC_FAULTS),
}  # fmt: skip
"""{role: those of the metrics without labels that it measures}."""

OF_SCENARIO: dict[str, tuple[MetricWrapperBase, ...]] = {
    "worker": (EMBEDDINGS_PUBLISHED, BACK_FILLED_USERS, BACK_FILL_USERS_LEFT, SCENARIO_UNUSABLE),
    "serve": (INDEX_VECTORS, INDEX_UPSERTS, INDEX_REFUSED, OTHER_QUERY),
}
"""{role: those of its metrics that have a series a scenario}."""


def forget_scenario(role: str, name: str) -> None:
    """It was retired: names come and go, and a series each would stay until the process ends."""
    for metric in OF_SCENARIO[role]:
        metric.remove_by_labels({"scenario": name})


class _OfRole(Collector):
    def __init__(self, role: str) -> None:
        own = WITHOUT_LABELS[role]
        self._hidden = {m for metrics in WITHOUT_LABELS.values() for m in metrics if m not in own}

    def collect(self) -> Iterable[Metric]:
        hidden = {family.name for metric in self._hidden for family in metric.describe()}
        return (family for family in REGISTRY.collect() if family.name not in hidden)


def registry(role: str) -> CollectorRegistry:
    """What this process exports as `role`."""
    found = CollectorRegistry()
    found.register(_OfRole(role))
    return found
