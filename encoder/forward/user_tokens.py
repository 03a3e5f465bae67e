"""One user's window as the encoder sees it: modalities in order, cut into chunks, summarised, hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encoder.forward import chunks, row_hash
from encoder.statistics import statistics
from encoder.statistics.statistics import Statistics
from store.base.settings import ModalitySettings
from store.window.user_window import ModalityWindow, UserWindow


@dataclass
class Part:
    """Rows of one modality. index: of the modality. cuts: int64 (chunks + 1,), see `chunks.cut`."""

    index: int
    name: str
    window: ModalityWindow
    cuts: NDArray[np.int64]

    @cached_property
    def hashes(self) -> bytes:
        """Of what each row's token is computed from, `row_hash.BYTES` each."""
        return row_hash.of(self.window.ts, self.window.numbers, self.window.vectors)

    @property
    def chunk_keys(self) -> list[tuple[str, int, str]]:
        """What names each chunk while rows join it: its modality and first row."""
        rows = self.cuts[:-1]
        return [
            (self.name, ts, self.window.names[row])
            for ts, row in zip(self.window.ts[rows].tolist(), rows.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class UserTokens:
    """parts: modalities with rows, in the model's order. means, stats, match: of the summary tokens, one per modality
    of the model, then the user's, as `statistics.Statistics` has them of a user.
    """

    user_id: str
    as_of: int
    parts: list[Part]
    means: NDArray[np.float32]
    stats: NDArray[np.float32]
    match: NDArray[np.float32]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each chunk, int64 (chunks,), in the order of the parts."""
        return np.concatenate([np.diff(part.cuts) for part in self.parts] or [np.zeros(0, np.int64)])

    def without_events(self) -> UserTokens:
        """The same user by summaries alone."""
        return replace(self, parts=[])

    @property
    def rows(self) -> int:
        """Event tokens."""
        return sum(len(part.window.ts) for part in self.parts)

    @property
    def chunks(self) -> int:
        """Chunks of all modalities."""
        return sum(len(part.cuts) - 1 for part in self.parts)


def prepare(window: UserWindow, modalities: Mapping[str, ModalitySettings], dim: int, zone: str = "UTC") -> UserTokens:
    """Describe a user; see `prepare_all`."""
    return prepare_all([window], modalities, dim, zone)[0]


def prepare_all(
    windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], dim: int, zone: str
) -> list[UserTokens]:
    """Describe users. Modalities the model does not know are left out.

    Args:
        modalities: in the model's order. dim: of event vectors. zone: time zone of hours and days.
    """
    found = statistics.describe(windows, modalities, dim, zone)
    return [_tokens(window, u, found, modalities) for u, window in enumerate(windows)]


def _tokens(window: UserWindow, u: int, found: Statistics, modalities: Mapping[str, ModalitySettings]) -> UserTokens:
    present = [
        (index, name, rows)
        for index, name in enumerate(modalities)
        if (rows := window.modalities.get(name)) is not None and len(rows.ts)
    ]
    cuts = chunks.cut_each([rows.names for _, _, rows in present])
    parts = [Part(*own, cut) for own, cut in zip(present, cuts, strict=True)]
    return UserTokens(window.user_id, int(found.as_of[u]), parts, found.means[u], found.stats[u], found.match[u])
