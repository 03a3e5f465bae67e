"""What a user id may be: one rule for ingest, the HTTP service and whoever else takes one."""

from __future__ import annotations

import re

MAX_CHARS = 128
PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,128}$"
"""The rule as a regular expression (of Python, JSON Schema and Rust), but for `.` and `..`."""
_ALLOWED = re.compile(PATTERN.removeprefix("^").removesuffix("$"))


def user_id_fault(user_id: str) -> str:
    """Why this is no user id, in words; "" if it is one.

    1 to 128 code points that UTF-8 can write, no control characters or line breaks; not `.` or `..`, which clients
    take out of a path before they send it.
    """
    if not user_id:
        return "a user id is not empty"
    if len(user_id) > MAX_CHARS:
        return f"a user id has at most {MAX_CHARS} characters; this has {len(user_id)}"
    if user_id in (".", ".."):
        return f"{user_id!r} is no user id: it cannot be part of a path"
    if _ALLOWED.fullmatch(user_id) is None:
        return "a user id has no control characters and no line breaks"
    try:
        user_id.encode()
    except UnicodeEncodeError:
        return "a user id is text that UTF-8 can write"
    return ""
