"""`verify` finds every kind of disagreement, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.operate.verify import MIN_COSINE, Served, Verification, compare, cosine, open_views
from store.base.errors import NotFoundError
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.buffer.view import BufferView
from store.window.encoded_event import EncodedEvent
from store.window.rows import pack_summary, summary_key, unpack_summary
from store.window.user_window import UserWindow

DIM = 8
USERS = [f"user-{n}" for n in range(150)]
SCENARIOS = ("churn", "risk")
MODALITIES = {"click": ModalitySettings(topic="in.click", numbers=("seconds",))}


class Hashing:
    """An encoder whose embeddings depend on all there is in a window, and on the scenario."""

    def model_id(self, scenario: str) -> str:
        return f"m-{scenario}"

    def encode_from_scratch(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        out = np.empty((len(windows), len(scenarios), 128), np.float32)
        for i, window in enumerate(windows):
            for j, scenario in enumerate(scenarios):
                parts = [window.user_id, scenario]
                for m in window.modalities.values():
                    parts += [str(m.names), str(m.ts), str(m.vectors), str(m.summary.vector_sum)]
                seed = abs(hash("|".join(parts))) % 2**32
                vector = np.random.default_rng(seed).normal(size=128)
                out[i, j] = vector / np.linalg.norm(vector)
        return out


Records = dict[str, dict[str, Served]]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("verify")
    resources = BufferResources.create()
    for partition in range(2):
        buffer = TokenBuffer.open(
            root / str(partition), modalities=MODALITIES, encoder_id="e", dim=DIM, identity="i",
            expiry_granularity_ms=1000, resources=resources,
        )  # fmt: skip
        users = USERS[partition::2]
        events = [
            EncodedEvent(
                user, "click", 1000 + n, f"e{n}", n, np.array([n], np.float32),
                (np.arange(DIM) == n % DIM).astype(np.float16), None, "in.click:0", n, 0,
            )
            for n, user in enumerate([*users, *users])
        ]  # fmt: skip
        buffer.commit(buffer.prepare(events, source_offset=0), log_offset=1)
        buffer.close()
    return [root / "0", root / "1"]


def served(paths: list[Path]) -> Records:
    encoder = Hashing()
    out: Records = {scenario: {} for scenario in SCENARIOS}
    for path in paths:
        with BufferView(path, MODALITIES) as view:
            for user in view.users():
                window = view.window(user)
                for scenario, vector in zip(
                    SCENARIOS, encoder.encode_from_scratch([window], SCENARIOS)[0], strict=True
                ):
                    out[scenario][user] = Served(
                        encoder.model_id(scenario), window.as_of, vector.astype(np.float16), window.newest_event
                    )
    return out


def verification(paths: list[Path], records: Records) -> Verification:
    views = [BufferView(path, MODALITIES) for path in paths]
    try:
        return compare(views, records, Hashing())
    finally:
        for view in views:
            view.close()


def test_what_agrees_agrees(paths: list[Path]) -> None:
    found = verification(paths, served(paths))
    assert found.ok
    assert (found.users, found.compared) == (len(USERS), 2 * len(USERS))
    assert 1 - 1e-5 < found.min_cosine <= 1 + 1e-9
    assert found.to_dict()["examples"] == {}


def test_on_one_of_two_machines_the_others_users_are_left_out_and_counted(paths: list[Path]) -> None:
    """They were `extra`, all of them."""
    records = served(paths)
    records["risk"]["nobody"] = records["risk"][USERS[0]]  # belongs here, and no token is there of it
    here = {*USERS[0::2], "nobody"}
    with BufferView(paths[0], MODALITIES) as view:
        found = compare([view], records, Hashing(), is_here=here.__contains__)
    assert (found.users, found.elsewhere, found.extra) == (75, 75, ["risk/nobody"])
    assert found.compared == 150
    assert found.to_dict()["elsewhere"] == 75


def tilted(record: Served) -> Served:
    """Just beyond what counts as agreement."""
    vector = record.vector.astype(np.float64)
    other = np.roll(vector, 1)
    other -= vector * (vector @ other) / (vector @ vector)
    other /= np.linalg.norm(other)
    angle = np.arccos(MIN_COSINE - 1e-4)
    return record._replace(vector=(np.cos(angle) * vector + np.sin(angle) * other).astype(np.float16))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda of: of.update({USERS[3]: tilted(of[USERS[3]])}), "mismatched"),
        (lambda of: of.update({USERS[3]: of[USERS[4]]}), "mismatched"),
        (lambda of: of.update({USERS[3]: of[USERS[3]]._replace(model="old")}), "mismatched"),
        (lambda of: of.update({USERS[3]: of[USERS[3]]._replace(as_of=1)}), "mismatched"),
        (
            lambda of: of.update({USERS[3]: of[USERS[3]]._replace(vector=np.full(128, np.nan, np.float16))}),
            "mismatched",
        ),
        (lambda of: of.update({USERS[3]: of[USERS[3]]._replace(vector=np.zeros(3, np.float16))}), "mismatched"),
        (lambda of: of.pop(USERS[3]), "missing"),
        (lambda of: of.update({"nobody": of[USERS[3]]}), "extra"),
    ],
    ids=["vector", "another's", "model", "time", "nan", "dim", "missing", "extra"],
)
def test_one_wrong_record_is_found(paths: list[Path], change: Callable[[dict[str, Served]], object], kind: str) -> None:
    records = served(paths)
    change(records["risk"])
    found = verification(paths, records)
    assert not found.ok
    counts = found.to_dict()
    assert {name: counts[name] for name in ("mismatched", "missing", "extra")} == {
        "mismatched": 0, "missing": 0, "extra": 0, kind: 1,
    }  # fmt: skip
    (example,) = counts["examples"][kind]
    assert example.partition(":")[0] == ("risk/nobody" if kind == "extra" else f"risk/{USERS[3]}")


def test_a_summary_that_its_rows_do_not_give_is_found(paths: list[Path], tmp_path: Path) -> None:
    """Even where the embeddings were made from the wrong summary too."""
    import shutil

    path = tmp_path / "0"
    shutil.copytree(paths[0], path)
    buffer = TokenBuffer.open(
        path, modalities=MODALITIES, encoder_id="e", dim=DIM, identity="i", expiry_granularity_ms=1000,
        resources=BufferResources.create(),
    )  # fmt: skip
    key = summary_key(USERS[0], "click")
    ((_, packed),) = buffer.current([key])
    assert packed is not None
    summary = unpack_summary(packed)
    wrong = pack_summary(summary._replace(rows=summary.rows + 1))
    buffer.apply_log([(key, wrong)], next_offset=2)
    buffer.close()
    found = verification([path, paths[1]], served([paths[0], paths[1]]))
    assert found.wrong_summaries == [f"click/{USERS[0]}"]
    assert not found.ok


def test_cosine() -> None:
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


@pytest.mark.parametrize("made", [(), ("processor",), ("processor/0",)])
def test_before_anything_ran_there_is_nothing_yet(tmp_path: Path, made: Sequence[str]) -> None:
    """It was `state_mismatch`, as if something were wrong."""
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    with ExitStack() as stack, pytest.raises(NotFoundError, match="there is nothing yet") as caught:
        open_views(stack, tmp_path, MODALITIES, "anchorstream")
    assert caught.value.code == "not_found"
