"""A rejection on its way out of a nested rule."""

from __future__ import annotations

from stream.rejection import ErrorCode, Rejection


class Refused(Exception):
    """Raised by the rules of one part of an event; the validator answers with its rejection."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.rejection = Rejection(code, detail)
