"""msgpack maps that say under `v` which version they are: `tag_field="v", tag=VERSION` of a msgspec struct."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class _Versioned(msgspec.Struct):
    v: int


_VERSION = msgspec.msgpack.Decoder(_Versioned)


def decode(decoder: msgspec.msgpack.Decoder[T], value: bytes, what: str) -> T:
    """Read a struct; unknown keys are ignored, every known one is of its type.

    Raises:
        ValueError: "not {what}: …"; of another version, or which key is missing or of which other type.
    """
    version = decoder.type.__struct_config__.tag
    try:
        # a struct's tag may be missing, and is judged only where it stands
        if (found := _VERSION.decode(value).v) != version:
            raise ValueError(f"not {what}: version {found}; this version reads {version}")
        return decoder.decode(value)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(f"not {what}: {exc}") from exc
