"""What a batch will change: computed by `TokenBuffer.prepare`, made durable by `TokenBuffer.commit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from store.account.account import Account
from store.account.outcome import Outcomes
from store.window.accepted import Accepted
from store.window.layout import prefix_length
from store.window.rows import KIND_SUMMARY
from store.window.window_update import Row


class Changes(NamedTuple):
    """Everything one commit writes. Read-only; valid until the buffer's next commit.

    users: whose summaries the events rewrote. swept_users: those changed by expiry alone.
    healed: rows logged again because a former owner wrote over them (`stale`: all such keys).
    outcomes: of all events. account: after the batch; None = as before.
    wall_time: up to which hour the wall has moved the stream time, ms.
    accepted: from which event time on events are accepted (store/window/accepted.py); None = as before.
    sweep_left: more has expired than fits one batch; the next `prepare`, empty or not, goes on.
    """

    deletes: list[Row]
    puts: list[Row]
    summaries: list[Row]
    sweep_deletes: list[Row]
    sweep_puts: list[Row]
    sweep_summaries: list[Row]
    ids: list[Row]
    expiry_deletes: list[bytes]
    expiry_puts: list[bytes]
    outcomes: Outcomes
    account: Account | None
    users: list[str]
    swept_users: list[str]
    stream_time: int
    source_offset: int
    due: dict[str, int]
    sweep_left: bool
    stale: list[bytes]
    healed: list[Row]
    version: int
    wall_time: int = 0
    accepted: Mapping[str, Accepted] | None = None

    @property
    def rows(self) -> list[Row]:
        """What the events changed, in the order to be logged: deletes, puts, then summaries; None = deleted.

        Before them, rows logged again: a window's summary comes after all its rows.
        """
        return self._healed(summaries=False) + self.deletes + self.puts + self.summaries

    @property
    def sweep_rows(self) -> list[Row]:
        """What expiry alone changed, then summaries logged again: to be sent after `rows`, with the `sweep` header."""
        return self.sweep_deletes + self.sweep_puts + self.sweep_summaries + self._healed(summaries=True)

    def _healed(self, *, summaries: bool) -> list[Row]:
        return [row for row in self.healed if (row[0][prefix_length(row[0])] == KIND_SUMMARY) is summaries]
