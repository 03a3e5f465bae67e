"""`anchorstream offsets`: where each group goes on, what is lost to it, and a reset."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.operate.offsets import Move, Position

app = App(name="offsets", help="Where each group goes on reading, what is lost to it, and a reset.")


@app.command(name="list")
def list_offsets(
    role: Annotated[str | None, Parameter(help="Only of this role.")] = None, *, common: Common | None = None
) -> int:
    """Each partition's committed offset beside what the broker has.

    Exit code 1 where a group cannot go on: `lost` (its next message is gone) or `ahead` (beyond the end).
    """
    from deploy import output
    from deploy.brokers import connect
    from deploy.operate.offsets import GroupPositions

    common = common or Common()
    settings = common.settings()
    with closing(GroupPositions(connect(settings, timeout_s=5.0), settings)) as groups:
        found = groups.read(role)
    if common.json:
        output.write_json({"positions": [_position(p) for p in found]})
    else:
        output.write_table(
            ("role", "group", "topic", "partition", "committed", "start", "end", "lost", "status"),
            [(p.role, p.group, p.topic, p.partition, p.committed, p.start, p.end, p.lost, p.status) for p in found],
            right=("partition", "committed", "start", "end", "lost"),
        )
    return int(any(p.status in ("lost", "ahead") for p in found))


@app.command(name="reset")
def reset_offsets(
    role: str,
    *,
    to: Annotated[str, Parameter(help="earliest, latest, or an offset.")],
    topic: Annotated[str | None, Parameter(help="Only of this topic.")] = None,
    partition: Annotated[list[int] | None, Parameter(help="Only this partition; repeatable.")] = None,
    every: Annotated[
        bool, Parameter(name="--all", negative="", help="Also partitions that can go on where they are.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what would be done and lost, and do nothing.")] = False,
    common: Common | None = None,
) -> int:
    """Set a role's group where it can go on, in all partitions that cannot, at once; while no member runs."""
    from deploy import output
    from deploy.brokers import connect
    from deploy.operate.offsets import CONSEQUENCES, GroupPositions, moves

    common = common or Common()
    settings = common.settings()
    with closing(GroupPositions(connect(settings, timeout_s=5.0), settings)) as groups:
        found = groups.read(role)
        groups.check(role, found[0].group if found else "")
        chosen = [p for p in found if topic in (None, p.topic) and (not partition or p.partition in partition)]
        made = moves(chosen, to, every=every)
        if not dry_run:
            groups.set(made)
    if common.json:
        output.write_json({"dry_run": dry_run, "moves": [_move(m) for m in made], "consequence": CONSEQUENCES[role]})
        return 0
    _show(made, len(chosen))
    if made:
        output.note(CONSEQUENCES[role])
        output.note("nothing was changed (--dry-run)" if dry_run else f"done: start {role} again")
    return 0


def _show(made: Iterable[Move], looked_at: int) -> None:
    from deploy import output

    rows = [
        (m.position.topic, m.position.partition, m.position.committed, m.to, m.position.lost, m.skipped, m.again)
        for m in made
    ]
    if not rows:
        output.note(f"{looked_at} partition(s), each of which can go on where it is; --all resets them too")
        return
    output.write_table(
        ("topic", "partition", "committed", "to", "lost", "skipped", "read again"),
        rows,
        right=("partition", "committed", "to", "lost", "skipped", "read again"),
    )


def _position(p: Position) -> dict[str, object]:
    return {
        "role": p.role,
        "group": p.group,
        "topic": p.topic,
        "partition": p.partition,
        "committed": p.committed,
        "start": p.start,
        "end": p.end,
        "lost": p.lost,
        "status": p.status,
    }


def _move(m: Move) -> dict[str, object]:
    return {**_position(m.position), "to": m.to, "skipped": m.skipped, "read_again": m.again}
