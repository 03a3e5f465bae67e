"""Shards: what the model would be given at each moment, and nothing of what came after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder.forward.user_tokens import prepare
from encoder.learning.history import History
from encoder.learning.user_u.aspects import Aspect, Kind, Labels, yes_or_no
from encoder.learning.user_u.build import Responses, build
from encoder.learning.user_u.counts import Counts
from encoder.learning.user_u.moments import Cuts, draw
from encoder.learning.user_u.shards import Manifest, Shard, read_manifest, read_shard
from encoder.learning.windows import Windows
from store.base.errors import NotFoundError, WeightsError
from tests.support.small_data_set import DAY, MODALITIES, START, history
from tests.support.windows import DIM

ASPECTS = [
    Aspect("goes", Kind.NONE, "bill", ("No bill in {horizon}?",), yes_or_no(("gone",), ("here",))),
    Aspect("times", Kind.TIMES, "bill", ("How many in {horizon}?",), (("0",), ("1",), ("2",), ("4",), ("8",))),
]
END = START + 50 * DAY


def cuts_of(past: History, number: int = 70) -> Cuts:
    return draw(Counts(past), number, start=START + 10 * DAY, end=END - 7 * DAY, zone="Europe/Paris", seed=3)


def made(folder: Path, past: History, cuts: Cuts, responses: Responses | None = None) -> tuple[Manifest, list[Shard]]:
    labels = Labels(Counts(past), END)
    manifest = build(
        folder, Windows(past, DAY // 24), cuts, ASPECTS, labels, zone="UTC", seed=5, responses=responses
    )  # fmt: skip
    assert read_manifest(folder) == manifest
    return manifest, [read_shard(folder, name) for name in sorted(manifest.shards)]


def test_a_sample_is_what_the_model_is_given(tmp_path: Path) -> None:
    past = history(20)
    cuts = cuts_of(past)
    manifest, (shard,) = made(tmp_path, past, cuts)
    assert manifest.samples == len(cuts.users) == 70
    assert manifest.modalities == {"bill": ["amount"], "search": []}
    windows = Windows(past, DAY // 24)
    includes = dict(
        zip(zip(cuts.users.tolist(), cuts.moments.tolist(), strict=True), cuts.includes_moment, strict=True)
    )
    samples, events = shard
    for i, (user, moment) in enumerate(zip(samples.users.tolist(), samples.moments.tolist(), strict=True)):
        window = windows.at(user, moment, includes_now=bool(includes[user, moment])).at(moment)
        wanted = prepare(window, MODALITIES, DIM, "UTC")
        assert wanted.as_of == moment
        assert np.array_equal(samples.stats[i], wanted.stats)
        assert np.allclose(samples.means[i], wanted.means, atol=2e-3)
        assert np.allclose(samples.match[i], wanted.match, atol=1e-3)
        for part in wanted.parts:
            rows = slice(*events.starts[i, part.index : part.index + 2])
            assert np.array_equal(events.ts[rows], part.window.ts)
            assert np.array_equal(events.table[events.vectors[rows]], part.window.vectors)
            numbers = part.window.numbers
            assert np.array_equal(events.numbers[rows, : numbers.shape[1]], numbers, equal_nan=True)
            assert np.flatnonzero(events.cuts[rows]).tolist() == part.cuts[:-1].tolist()
        assert events.starts[i, -1] - events.starts[i, 0] == wanted.rows


def test_nothing_of_the_future_is_in_a_sample(tmp_path: Path) -> None:
    """What comes after each user's moment is another, or not there at all: classes change, features do not."""
    past = history(20)
    cut = START + 30 * DAY
    cuts = Cuts(np.arange(20), np.full(20, cut), np.zeros(20, bool))
    other = replace(past, modalities={
        name: replace(
            own, numbers=np.where((own.ts >= cut)[:, None], 9e9, own.numbers).astype(np.float32),
            vectors=np.where(own.ts >= cut, 0, own.vectors).astype(np.int32),
            ts=np.where(own.ts >= cut, own.ts + 20 * DAY, own.ts),
        )
        for name, own in past.modalities.items()
    })  # fmt: skip
    (_, (first,)), (_, (second,)) = (made(tmp_path / str(i), of, cuts) for i, of in enumerate((past, other)))
    assert not np.array_equal(first.samples.classes, second.samples.classes)
    for name in ("users", "moments", "means", "stats", "match"):
        assert getattr(first.samples, name).tobytes() == getattr(second.samples, name).tobytes(), name
    for name, mine in first.events._asdict().items():
        assert mine.tobytes() == getattr(second.events, name).tobytes(), name


def test_equal_seeds_make_equal_files(tmp_path: Path) -> None:
    past = history(20)
    for name in ("one", "two"):
        made(tmp_path / name, past, cuts_of(past))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 2
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_questions_of_single_samples(tmp_path: Path) -> None:
    past = history(20)
    cuts = Cuts(np.arange(5), np.full(5, START + 20 * DAY), np.zeros(5, bool))
    mine = Responses(
        cuts,
        np.array([0, 1, 0, 1, 0], np.int32),
        np.array([True, False] * 2 + [True]),
        ["A?", "B?"],
        (("no",), ("yes",)),
    )
    manifest, (shard,) = made(tmp_path, past, cuts_of(past, 10), mine)
    assert manifest.queries == ["A?", "B?"]
    found = shard.samples.query >= 0
    assert found.sum() == 5
    assert (shard.samples.answer[found] == (shard.samples.query[found] == 0)).all()
    assert (shard.samples.answer[~found] == -1).all()


def test_cuts_are_where_a_product_would_meet_users() -> None:
    past = history(30)
    cuts = cuts_of(past, 400)
    assert len(cuts.users) == 400
    assert ((cuts.moments >= START + 10 * DAY) & (cuts.moments < END - 7 * DAY)).all()
    assert len(set(cuts.users.tolist())) > 25
    hours = (cuts.moments // 3_600_000) % 24
    midnights = np.isin(hours, (22, 23)) & (cuts.moments % 3_600_000 == 0)  # of Paris, in UTC
    assert 0.4 < midnights.mean() < 0.8
    own = past.modalities
    for user, moment in zip(cuts.users[cuts.includes_moment], cuts.moments[cuts.includes_moment], strict=True):
        assert any(moment in of.ts[of.starts[user] : of.starts[user + 1]] for of in own.values())


def test_what_is_not_there_or_of_others_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no manifest"):
        read_manifest(tmp_path)
    past = history(5)
    manifest, _ = made(tmp_path, past, cuts_of(past, 5))
    manifest.check(MODALITIES, tmp_path)
    with pytest.raises(WeightsError, match="bill"):
        manifest.check({"bill": MODALITIES["search"]}, tmp_path)
    (tmp_path / next(iter(manifest.shards))).unlink()
    with pytest.raises(NotFoundError, match="shard-00000"):
        read_shard(tmp_path, next(iter(manifest.shards)))
