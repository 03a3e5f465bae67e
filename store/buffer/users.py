"""Who is in a token buffer, found by walking its summaries."""

from __future__ import annotations

from collections.abc import Iterator

from store.buffer.database import BufferDatabase
from store.window.layout import split_prefix
from store.window.rows import prefix_end, user_prefix

_PAGE = 1000
"""Summaries read at a time: no iterator stays open between two users."""


def walk_users(db: BufferDatabase, after: str) -> Iterator[str]:
    """Every user with a summary behind `after` ("" = all), in key order. The buffer may change meanwhile."""
    start, last = prefix_end(user_prefix(after)) if after else b"", ""
    while True:
        page = db.keys(db.summaries, start, _PAGE)
        for key in page:
            user = split_prefix(key[:-1])[0]
            if user != last:
                last = user
                yield user
        if len(page) < _PAGE:
            return
        start = page[-1] + b"\x00"


def count_users(db: BufferDatabase, exact_keys: int) -> int:
    """How many users have a summary; beyond so many summaries estimated from these and the database's own count."""
    users, keys, last = 0, 0, b""
    key: bytes
    for key in db.summaries.keys():  # noqa: SIM118 (not a dict)
        prefix = key[: 2 + (key[0] << 8 | key[1])]
        users += prefix != last
        last, keys = prefix, keys + 1
        if keys == exact_keys:
            there: int = db.summaries.property_int_value("rocksdb.estimate-num-keys") or 0
            return max(users, users * there // keys)
    return users
