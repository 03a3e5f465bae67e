"""Users that wait, in the order of their coming, partition by partition in turn. Pure."""

from __future__ import annotations

from collections import OrderedDict


class Turns:
    """Each user once, with the new tokens of its rows. Nobody waits behind all of another partition's users.

    tokens: of all together.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._of: OrderedDict[int, OrderedDict[str, int]] = OrderedDict()  # the first has its turn
        self._partition: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._partition)

    def __contains__(self, user: object) -> bool:
        return user in self._partition

    def add(self, user: str, tokens: int, partition: int, *, most: int) -> None:
        """At the end of its partition's; one that waits already keeps its place. most: tokens of one user."""
        users = self._of.setdefault(self._partition.setdefault(user, partition), OrderedDict())
        known = users.get(user, 0)
        users[user] = max(known, min(known + tokens, most))
        self.tokens += users[user] - known

    def pop(self, user: str) -> int | None:
        """Take a user out: its tokens; None where it does not wait."""
        if (partition := self._partition.pop(user, None)) is None:
            return None
        users = self._of[partition]
        tokens = users.pop(user)
        if not users:
            del self._of[partition]
        self.tokens -= tokens
        return tokens

    def pop_partition(self, partition: int) -> dict[str, int]:
        """Take all of a partition out: tokens by user, in order."""
        users = self._of.pop(partition, None) or OrderedDict()
        for user, tokens in users.items():
            del self._partition[user]
            self.tokens -= tokens
        return users

    def first(self) -> tuple[str, int] | None:
        """Whose turn it is, and its tokens."""
        return next(iter(next(iter(self._of.values())).items())) if self._of else None

    def take(self) -> None:
        """Take the first out; the next partition has its turn."""
        partition, users = next(iter(self._of.items()))
        self.pop(next(iter(users)))
        if partition in self._of:
            self._of.move_to_end(partition)
