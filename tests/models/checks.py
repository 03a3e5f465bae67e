"""What a token buffer holds, for assertions."""

from __future__ import annotations

from collections.abc import Mapping

from store.base.settings import ModalitySettings
from store.buffer.token_buffer import TokenBuffer
from store.window.rows import KIND_SUMMARY, LIGHT, modality_prefix, parse_key, unpack_summary
from store.window.user_window import summary_by_scan
from tests.models.events import DIM


def light(buffer: TokenBuffer) -> list[str]:
    """Event ids of those remembered."""
    return [parse_key(key).name for key, value in buffer.rows() if value[0] == LIGHT]


def check_sums(buffer: TokenBuffer, made: Mapping[str, ModalitySettings]) -> None:
    """Every summary is what a scan finds. made: as configured."""
    rows = dict(buffer.rows())
    for key, packed in rows.items():
        user, modality, kind, _, _ = parse_key(key)
        if kind == KIND_SUMMARY:
            prefix = modality_prefix(user, modality)
            mine = [(k[len(prefix) :], v) for k, v in rows.items() if k.startswith(prefix) and k != key]
            assert summary_by_scan(mine, unpack_summary(packed), made[modality], DIM).pack() == packed
