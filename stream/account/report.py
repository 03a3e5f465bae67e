"""What became of everything that was published, by raw topic and modality, and whether it adds up. Pure.

    published = accepted + refused + skipped + passed over + not yet read
    accepted  = new + duplicates + conflicting + expired + evicted + remembered + refused by processors + unprocessed

Ingest counts the first line, each processor its part of the second (stream/raw_counts.py, store/account/account.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.account.account import Account
from store.account.outcome import OUTCOMES
from stream.raw_counts import OTHERS, RawCounts

NOWHERE = "(no topic)"
"""In place of a raw topic, of what `replay` had no raw topic for: it goes to dead-letters without one."""
Place = tuple[str, int]
"""Raw topic, partition."""


class RawPartition(NamedTuple):
    """One partition of a raw topic. committed: ingest's next offset, None = never. counts: with it, None = it has none.

    start, end: of what the broker has.
    """

    committed: int | None
    counts: RawCounts | None
    start: int
    end: int


class ProcessedPartition(NamedTuple):
    """One partition of `events`. account: None = no processor has told one.

    events_next: next offset that is not in the account. end: of the partition. users: None = not known.
    """

    account: Account | None
    events_next: int
    end: int
    users: int | None


@dataclass(frozen=True, slots=True)
class TopicAccount:
    """One raw topic, in messages. since: epoch ms, when the first of its partitions began to be counted; None = never.

    refused, skipped: by code and reason. passed_over: left out by a reset of the offsets, or removed unread.
    unread: not yet read by ingest. without_message: offsets with no message in them (ends of transactions, compaction).
    """

    topic: str
    since: int | None
    published: int
    accepted: int
    refused: Mapping[str, int]
    skipped: Mapping[str, int]
    passed_over: int
    unread: int
    without_message: int

    @property
    def adds_up(self) -> bool:
        """Whether no message is counted that is not there."""
        parts = self.accepted + sum(self.refused.values()) + sum(self.skipped.values()) + self.passed_over
        return self.published == parts + self.unread and self.without_message >= 0


@dataclass(frozen=True, slots=True)
class ModalityAccount:
    """Events of one modality of a raw topic that ingest accepted, by what became of them.

    refused: by processors, by code. unprocessed: not yet. uncounted: no processor counted them, though all is read: an
    older version has processed them.
    ahead: processed ones that ingest does not count as accepted: not yet, or, after a crash, it refused them when it
    read them again (`clock = "wall"`, another configuration).
    """

    topic: str
    modality: str
    accepted: int
    applied: int
    duplicate: int
    conflicting: int
    expired: int
    evicted: int
    remembered: int
    refused: Mapping[str, int]
    unprocessed: int
    uncounted: int
    ahead: int

    @property
    def adds_up(self) -> bool:
        """Whether every accepted event is in one of the others, once."""
        found = self.applied + self.duplicate + self.conflicting + self.expired + self.evicted + self.remembered
        return self.accepted + self.ahead == found + sum(self.refused.values()) + self.unprocessed + self.uncounted


@dataclass(frozen=True, slots=True)
class AccountReport:
    """As of `at`, epoch ms. users: in the token buffers, about; None = not known.

    missing_topics: configured, and not on the broker. unseen_letters: dead letters that were not yet looked at; some
    may be of no topic.
    """

    at: int
    topics: tuple[TopicAccount, ...]
    modalities: tuple[ModalityAccount, ...]
    users: int | None = None
    missing_topics: tuple[str, ...] = ()
    unseen_letters: int = 0

    @property
    def refused(self) -> Counter[str]:
        """By code, by ingest and processors."""
        total = Counter[str]()
        for topic in self.topics:
            total.update(topic.refused)
        for modality in self.modalities:
            total.update(modality.refused)
        return total

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way between producer and token buffer."""
        on_the_way = [self.unseen_letters, *(t.unread for t in self.topics)]
        return not any(on_the_way) and not any(m.unprocessed or m.ahead for m in self.modalities)

    @property
    def adds_up(self) -> bool:
        """Whether everything that was published has its line, once."""
        accepted = Counter[str]()
        for m in self.modalities:
            accepted[m.topic] += m.accepted
        return (
            all(t.adds_up for t in self.topics)
            and all(m.adds_up for m in self.modalities)
            and {t.topic: t.accepted for t in self.topics if t.accepted} == +accepted
        )

    def totals(self) -> dict[str, int]:
        """Sums over all topics and modalities, by the names of their fields."""
        names = ("published", "passed_over", "unread", "without_message")
        total = {name: sum(getattr(t, name) for t in self.topics) for name in names}
        total["accepted"] = sum(t.accepted for t in self.topics)
        total["refused"] = sum(sum(t.refused.values()) for t in self.topics)
        total["skipped"] = sum(sum(t.skipped.values()) for t in self.topics)
        of_events = (*(str(outcome) for outcome in OUTCOMES), "unprocessed", "uncounted", "ahead")
        total |= {name: sum(getattr(m, name) for m in self.modalities) for name in of_events}
        total["refused_by_processors"] = sum(sum(m.refused.values()) for m in self.modalities)
        return total

    def lines(self) -> list[str]:
        """How it adds up, for people; parts that are 0 are left out."""
        total = self.totals()
        first = {
            "accepted": "accepted",
            "refused": "refused",
            "skipped": "skipped",
            "passed_over": "passed over",
            "unread": "not yet read",
        }
        second = {
            "applied": "new",
            "duplicate": "duplicates",
            "conflicting": "conflicting",
            "expired": "expired on arrival",
            "evicted": "older than a full window",
            "remembered": "remembered without text",
            "refused_by_processors": "refused by processors",
            "unprocessed": "not yet processed",
            "uncounted": "processed by an older version",
        }
        end = f" + {total['ahead']:,} not yet committed or read twice" if total["ahead"] else ""
        return [
            f"published {total['published']:,} = {_sum(total, first)}",
            f"accepted {total['accepted']:,}{end} = {_sum(total, second)}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Body of `GET /v1/account` and of `anchorstream account --json`."""
        return {
            "at": self.at,
            "adds_up": self.adds_up,
            "settled": self.settled,
            "lines": self.lines(),
            "totals": self.totals(),
            "refused": dict(sorted(self.refused.items())),
            "users": self.users,
            "topics": [_dict(t) for t in self.topics],
            "modalities": [_dict(m) for m in self.modalities],
            "missing_topics": list(self.missing_topics),
            "unseen_letters": self.unseen_letters,
        }


@dataclass(slots=True)
class _Topic:
    since: list[int] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    passed_over: int = 0
    unread: int = 0
    without_message: int = 0


def account(
    raw: Mapping[Place, RawPartition],
    processed: Iterable[ProcessedPartition],
    *,
    at: int,
    missing_topics: Iterable[str] = (),
    nowhere: Mapping[str, int] | None = None,
    unseen_letters: int = 0,
) -> AccountReport:
    """Put the counts together.

    Args:
        raw: every partition of the raw topics.
        processed: every partition of `events`; read before `raw`, so that what processors have counted is there.
        nowhere: dead letters of no raw topic, by code.
    """
    processed = list(processed)
    topics: dict[str, _Topic] = defaultdict(_Topic)
    for (topic, _), partition in sorted(raw.items()):
        _add(topics[topic], partition)
    outcomes = _outcomes(processed, {place: p.counts.since for place, p in raw.items() if p.counts is not None})
    behind = any(p.events_next < p.end for p in processed)
    modalities: list[ModalityAccount] = []
    for topic, of in topics.items():
        found = outcomes.get(topic, {})
        if OTHERS in of.accepted:  # which of the processed ones these are nobody can tell
            of.accepted = Counter({OTHERS: of.accepted.total()})
            found = {OTHERS: sum(found.values(), Counter[str]())}
        names = sorted(of.accepted.keys() | found.keys())
        modalities += [_modality(topic, n, of.accepted[n], found.get(n, Counter()), behind=behind) for n in names]
    if nowhere:
        topics[NOWHERE] = _Topic(refused=Counter(nowhere))
    users = [p.users for p in processed if p.account is not None]
    return AccountReport(
        at,
        tuple(_topic(topic, of) for topic, of in topics.items()),
        tuple(modalities),
        None if not users or None in users else sum(u for u in users if u is not None),
        tuple(sorted(missing_topics)),
        unseen_letters,
    )


def _add(topic: _Topic, partition: RawPartition) -> None:
    committed, counts = partition.committed, partition.counts
    if committed is None:
        topic.unread += partition.end - partition.start
        return
    topic.unread += max(0, partition.end - committed)
    if counts is None:
        return  # an older version's: counted from here on
    topic.since.append(counts.since)
    topic.accepted.update(counts.accepted)
    topic.refused.update(counts.refused)
    topic.skipped.update(counts.skipped)
    topic.passed_over += counts.passed_over
    topic.without_message += committed - counts.begin - counts.messages


def _topic(name: str, of: _Topic) -> TopicAccount:
    parts = of.accepted.total() + of.refused.total() + of.skipped.total() + of.passed_over + of.unread
    return TopicAccount(
        name,
        min(of.since, default=None),
        parts,
        of.accepted.total(),
        dict(of.refused),
        dict(of.skipped),
        of.passed_over,
        of.unread,
        of.without_message,
    )


def _outcomes(
    processed: Iterable[ProcessedPartition], since: Mapping[Place, int]
) -> dict[str, dict[str, Counter[str]]]:
    """By raw topic, modality and what became of the events; of ingest's present counts only."""
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for partition in processed:
        for source, of in (partition.account or Account()).sources.items():
            name, _, number = source.rpartition(":")
            topic = name.partition("#")[0]  # a topic that was made anew has a name of its own
            if since.get((topic, int(number))) == of.since:
                for modality, counts in of.counts.items():
                    found[topic][modality].update(counts)
    return found


def _modality(topic: str, name: str, accepted: int, found: Counter[str], *, behind: bool) -> ModalityAccount:
    left = accepted - found.total()
    outcomes = [str(outcome) for outcome in OUTCOMES]
    return ModalityAccount(
        topic,
        name,
        accepted,
        **{outcome: found[outcome] for outcome in outcomes},
        refused={code: n for code, n in found.items() if code not in outcomes},
        unprocessed=max(0, left) if behind else 0,
        uncounted=0 if behind else max(0, left),
        ahead=max(0, -left),
    )


def _sum(total: Mapping[str, int], names: Mapping[str, str]) -> str:
    return " + ".join(f"{total[name]:,} {words}" for name, words in names.items() if total[name]) or "0"


def _dict(one: TopicAccount | ModalityAccount) -> dict[str, Any]:
    return {name: dict(v) if isinstance(v := getattr(one, name), Mapping) else v for name in one.__slots__}
