"""What the query of a scenario may be: one rule for the configuration, the HTTP service and whoever else takes one.

What was recorded before there was the rule is still read.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_CHARS = 2000
MAX_PROMPT_CHARS = 128
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
PATTERN = rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$"
"""The rule as a regular expression (of Python, JSON Schema and Rust), but for the length."""
_CONTROL = re.compile(f"[{_CONTROLS}]")


def text_fault(text: str) -> str:
    """Why this is no query and no name of a soft prompt, in words; "" if it may be one.

    A line of text that UTF-8 can write: no control characters or line breaks, and not blank.
    """
    if (found := _CONTROL.search(text)) is not None:
        which = f"character {found.start() + 1} is U+{ord(found[0]):04X}"
        return f"this is one line of text, without control characters and line breaks; {which}"
    if not text.strip():
        return "this is not blank"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "this is text that UTF-8 can write"
    return ""


def _checked(text: str) -> str:
    if fault := text_fault(text):
        raise ValueError(fault)
    return text


QueryText = Annotated[
    str, Field(min_length=1, max_length=MAX_CHARS, json_schema_extra={"pattern": PATTERN}), AfterValidator(_checked)
]
"""A query, as a field."""
PromptName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PROMPT_CHARS, json_schema_extra={"pattern": PATTERN}),
    AfterValidator(_checked),
]
"""The name of a soft prompt, as a field."""
