"""`anchorstream account`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.account.report import AccountReport

_OUTCOMES = {
    "new": "applied",
    "duplicates": "duplicate",
    "conflicting": "conflicting",
    "expired": "expired",
    "evicted": "evicted",
    "remembered": "remembered",
}


def account(
    *,
    wait: Annotated[
        float, Parameter(validator=Number(gte=0), help="Wait so many seconds until nothing is on its way any more.")
    ] = 0.0,
    common: Common | None = None,
) -> int:
    """What became of everything that was published, by raw topic and modality. Reads the broker; needs no role to run.

    Exit code 1 where it does not add up, or a topic is missing.
    """
    from contextlib import closing

    from deploy import output
    from deploy.brokers import connect
    from stream.account.reader import AccountReader
    from stream.topics import Topics

    common = common or Common()
    settings = common.settings()
    raw = {modality.topic for modality in settings.modalities.values()}
    with closing(AccountReader(connect(settings, timeout_s=5.0), Topics(settings.kafka), raw)) as reader:
        report = reader.settled(seconds=wait) if wait else reader.read()
    if common.json:
        output.write_json(report.to_dict())
    else:
        write_report(report)
        if own := [name for name in report.missing_topics if name not in raw]:
            output.note(
                f"{', '.join(own)}: of kafka.topic_prefix = {settings.kafka.topic_prefix!r}; "
                "is that the one that the roles run with?"
            )
    return int(not report.adds_up or bool(report.missing_topics))


def write_report(report: AccountReport) -> None:
    """For people."""
    from deploy import output

    numbers = ("published", "accepted", "refused", "skipped", "passed over", "not yet read")
    output.write_table(
        ("raw topic", *numbers, "since, UTC"),
        [
            (
                t.topic,
                t.published,
                t.accepted,
                sum(t.refused.values()),
                sum(t.skipped.values()),
                t.passed_over,
                t.unread,
                output.moment(t.since),
            )
            for t in report.topics
        ],
        right=numbers,
    )
    rest = ("accepted", *_OUTCOMES, "refused", "not yet processed")
    output.write_table(
        ("raw topic", "modality", *rest),
        [
            (
                m.topic,
                m.modality,
                m.accepted,
                *(getattr(m, name) for name in _OUTCOMES.values()),
                sum(m.refused.values()),
                m.unprocessed,
            )
            for m in report.modalities
        ],
        right=rest,
    )
    for topic in report.topics:
        for what, counts in (("refused", topic.refused), ("skipped", topic.skipped)):
            if counts:
                output.note_result(f"{topic.topic}, {what}: {_listed(counts)}")
        if topic.without_message:
            output.note_result(
                f"{topic.topic}: {topic.without_message:,} offset(s) without a message (transactions, compaction)"
            )
    for modality in report.modalities:
        if modality.refused:
            output.note_result(f"{modality.modality}, refused by processors: {_listed(modality.refused)}")
    output.write_pairs({"users": report.users})
    for line in report.lines():
        output.note_result(line)
    if not report.adds_up:
        output.note_result("this does NOT add up: report it")
    if report.missing_topics:
        output.note(f"not on the broker: {', '.join(report.missing_topics)}")


def _listed(counts: Mapping[str, int]) -> str:
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {n:,}" for name, n in items)
