"""Are the embeddings that are served the ones that the stored tokens give? Computed anew, by the slow way.

From the processor's buffers, read only: summaries are recomputed by scanning rows, embeddings from scratch without KV
pages, one path through the model that shares no state with the worker. Compared with every record the service has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.brokers.state_prefix import check_prefix
from store.base.errors import NotFoundError
from store.base.settings import ModalitySettings
from store.buffer.view import BufferView, find
from store.window.rows import pack_summary
from store.window.silence import SilenceTicks
from store.window.user_window import UserWindow

MIN_COSINE = 0.999
"""Agreement: float16 on the wire costs below 1e-6 of cosine, bfloat16 against float32 below 1e-3."""
BATCH_USERS = 64
SHOWN = 20
NO_TICKS = SilenceTicks(())


class Served(NamedTuple):
    """What a service answers for one user and scenario. vector: float16 (dim,)."""

    model: str
    as_of: int
    vector: NDArray[np.float16]
    newest_event: int


class Encoder(Protocol):
    """What is needed of `encoder.forward.user_encoder.UserEncoder`."""

    def model_id(self, scenario: str) -> str: ...

    def encode_from_scratch(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(slots=True)
class Verification:
    """users: with stored tokens. mismatched, missing, extra: pairs of user and scenario, as `scenario/user`.

    elsewhere: users that are served and belong to partitions that are not held here; they are not compared.

    A pair is mismatched when its cosine is below the threshold, or model id or newest event time differ, or it stands
    at a time at which nothing does; it says which.
    wrong_summaries: (user, modality) whose stored summary is not what its rows give, as `modality/user`.
    """

    users: int = 0
    elsewhere: int = 0
    compared: int = 0
    min_cosine: float = 1.0
    mismatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    wrong_summaries: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return not (self.mismatched or self.missing or self.extra or self.wrong_summaries)

    def to_dict(self) -> dict[str, Any]:
        """For --json: counts, and the first few of each kind."""
        kinds = ("mismatched", "missing", "extra", "wrong_summaries")
        return {
            "users": self.users,
            "elsewhere": self.elsewhere,
            "compared": self.compared,
            **{kind: len(getattr(self, kind)) for kind in kinds},
            "min_cosine": round(self.min_cosine, 9),
            "threshold": MIN_COSINE,
            "examples": {kind: getattr(self, kind)[:SHOWN] for kind in kinds if getattr(self, kind)},
            "seconds": round(self.seconds, 2),
        }


Records = Mapping[str, Mapping[str, Served]]
"""scenario → user → what is served."""


def compare(
    views: Iterable[BufferView],
    records: Records,
    encoder: Encoder,
    *,
    ticks: SilenceTicks = NO_TICKS,
    is_here: Callable[[str], bool] = lambda _user: True,
    on_users: Callable[[int], None] = lambda _users: None,
) -> Verification:
    """Compare every user of the buffers with every record, computed anew for the time at which that stands.

    Args:
        ticks: when users who are silent are embedded again.
        is_here: whether a user belongs to a partition of the buffers; others are counted as `elsewhere`.
        on_users: called with the number of users done.
    """
    found = Verification()
    begun = time.monotonic()
    scenarios = list(records)
    known: set[str] = set()
    for view in views:
        for users in _batched(view.users(), BATCH_USERS):
            windows = [_checked(view, user, found) for user in users]
            windows = [window for window in windows if window.is_known]
            known.update(window.user_id for window in windows)
            if placed := _at_their_times(windows, records, found):
                vectors = encoder.encode_from_scratch([window for window, _ in placed], scenarios)
                for (window, served), row in zip(placed, vectors, strict=True):
                    stands = _standing(window, ticks, view.stream_time)
                    for scenario, vector in zip(scenarios, row, strict=True):
                        if (got := served.get(scenario)) is not None:
                            _judge(found, encoder, scenario, window, vector, got, stands)
            on_users(len(known))
    found.users = len(known)
    unknown = {user for of in records.values() for user in of if user not in known}
    elsewhere = {user for user in unknown if not is_here(user)}
    found.elsewhere, extra = len(elsewhere), unknown - elsewhere
    found.extra = [f"{name}/{user}" for name, of in records.items() for user in of if user in extra]
    found.seconds = time.monotonic() - begun
    return found


def open_views(
    stack: ExitStack, data_dir: Path, modalities: Mapping[str, ModalitySettings], prefix: str
) -> dict[int, BufferView]:
    """The processors' buffers on this machine, by partition, closed with `stack`.

    Raises:
        NotFoundError: there are none, so there is nothing to compare yet. StateError: they are of another prefix.
    """
    check_prefix(data_dir, prefix)
    state = data_dir / "processor"
    paths = find(state, _identity(data_dir))
    if not paths:
        raise NotFoundError(
            f"there is nothing yet: no processor has written to {state}",
            action="start it (`anchorstream up`) and send events; if it runs, check store.data_dir: this is read where "
            "the processors run",
        )
    return {number: stack.enter_context(BufferView(path, modalities)) for number, path in sorted(paths.items())}


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine in float64; 0 where one has no length."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else 0.0


def _judge(
    found: Verification,
    encoder: Encoder,
    scenario: str,
    window: UserWindow,
    vector: NDArray[np.float32],
    got: Served,
    stands: int,
) -> None:
    """stands: the time at which the window, looked at from there, stands."""
    pair = f"{scenario}/{window.user_id}"
    found.compared += 1
    agreement = cosine(vector, got.vector) if vector.shape == got.vector.shape else 0.0
    found.min_cosine = min(found.min_cosine, agreement)
    faults = []
    if got.model != encoder.model_id(scenario):
        faults.append(f"model {got.model}, not {encoder.model_id(scenario)}")
    if got.newest_event != window.newest_event:
        faults.append(f"newest event {got.newest_event}, not {window.newest_event}")
    if got.as_of != stands:
        faults.append(f"as of {got.as_of}, not {stands}")
    if not agreement >= MIN_COSINE:  # not `<`: a NaN is a mismatch
        faults.append(f"cosine {agreement:.6f}")
    if faults:
        found.mismatched.append(f"{pair}: {', '.join(faults)}")


def _at_their_times(
    windows: Iterable[UserWindow], records: Records, found: Verification
) -> list[tuple[UserWindow, dict[str, Served]]]:
    """Each user at each time at which records of it stand, and which these are."""
    placed = []
    for window in windows:
        times: dict[int, dict[str, Served]] = {}
        for scenario, of in records.items():
            if (got := of.get(window.user_id)) is None:
                found.missing.append(f"{scenario}/{window.user_id}")
            else:
                times.setdefault(got.as_of, {})[scenario] = got
        placed += [(window.at(time), served) for time, served in times.items()]
    return placed


def _standing(window: UserWindow, ticks: SilenceTicks, stream_time: int) -> int:
    """Where the window, looked at from its time, stands. How far a worker's horizon is, only the worker knows."""
    if window.as_of == (newest := window.newest_event):
        return newest
    return ticks.stands_at(window.user_id, newest, min(window.as_of, stream_time))


def _checked(view: BufferView, user: str, found: Verification) -> UserWindow:
    stored, scanned = view.window(user), view.window_by_scan(user)
    for name, window in stored.modalities.items():
        if pack_summary(window.summary) != pack_summary(scanned.modalities[name].summary):
            found.wrong_summaries.append(f"{name}/{user}")
    return scanned


def _identity(data_dir: Path) -> str | None:
    from deploy.brokers.state import IDENTITY_FILE
    from store.base.files import read_json

    state = read_json(data_dir / IDENTITY_FILE)
    return None if state is None else str(state["identity"])


def _batched(users: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(users, size)):
        yield batch
