"""A pretraining run of seconds on the small data set; as a module it is one process, which tests kill."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.forward.forward import user_states
from encoder.learning.pretraining.batches import user_tokens, with_events
from encoder.learning.pretraining.run import train
from encoder.learning.pretraining.settings import PretrainSettings
from encoder.learning.pretraining.trainer import Trainer, query_tail
from encoder.learning.user_u.aspects import Aspect, Kind, Labels, yes_or_no
from encoder.learning.user_u.build import Responses, build
from encoder.learning.user_u.counts import Counts
from encoder.learning.user_u.moments import Cuts, draw
from encoder.learning.user_u.shards import Shard, read_manifest, read_shard, write_shard
from encoder.learning.windows import Windows
from encoder.model import presets
from encoder.model.query_vectors import QueryVectors
from encoder.model.settings import ModelSettings
from encoder.model.user_model import UserModel
from store.window.user_window import UserWindow
from tests.support.small_data_set import COFFEE, DAY, MODALITIES, START, TEA, history
from tests.support.windows import DIM, vector

ASPECTS = [
    Aspect("goes", Kind.NONE, "search", ("No search in {horizon}?",), yes_or_no(("gone",), ("here",))),
    Aspect("tea", Kind.TOPIC, "bill", ("Any tea in {horizon}?",), yes_or_no(("tea",), ("no tea",)), topic=TEA),
    Aspect("times", Kind.TIMES, "bill", ("How many in {horizon}?",), (("0",), ("1",), ("2",), ("4",), ("8",))),
]


class Vectors(QueryVectors):
    """Of any text, of the small width."""

    def of(self, text: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
        return found / np.linalg.norm(found)


def write(folder: Path) -> None:
    """Training data of one shard."""
    past = history(40)
    counts = Counts(past)
    cuts = draw(counts, 150, start=START + 10 * DAY, end=START + 50 * DAY, zone="UTC", seed=1)
    topics = np.array([TEA if np.array_equal(each, vector(TEA)) else COFFEE for each in past.vectors], np.int64)
    single = Cuts(np.arange(8), np.full(8, START + 20 * DAY), np.zeros(8, bool))
    responses = Responses(
        single, np.arange(8, dtype=np.int32) % 2, np.arange(8) % 3 == 0, ["A?", "B?"], yes_or_no(("yes",), ("no",))
    )
    build(
        folder, Windows(past, DAY // 24), cuts, ASPECTS, Labels(counts, counts.end, {"bill": topics}), zone="UTC",
        seed=1, responses=responses,
    )  # fmt: skip


def replace_classes(folder: Path, name: str, classes: NDArray[np.int8]) -> None:
    """Other answers in a shard."""
    shard = read_shard(folder, name)
    write_shard(folder, name, Shard(shard.samples._replace(classes=classes), shard.events))


def trainer(data: Path, settings: PretrainSettings) -> Trainer:
    """Of a seeded `tiny`."""
    torch.set_num_threads(1)
    manifest = read_manifest(data)
    model = UserModel(presets.load(ModelSettings()), MODALITIES, dim=DIM, seed=0, vectors=Vectors().of)
    return Trainer(model, data, manifest, settings)


def first_windows(data: Path, count: int) -> tuple[list[UserWindow], Shard]:
    """Windows of the first samples of the shard, cut anew."""
    shard = read_shard(data, next(iter(read_manifest(data).shards)))
    windows = Windows(history(40), DAY // 24)
    owners, moments = shard.samples.users[:count].tolist(), shard.samples.moments[:count].tolist()
    bounds = shard.events.starts[:count, [0, -1]].tolist()
    found = []
    for user, moment, (start, end) in zip(owners, moments, bounds, strict=True):
        both = (windows.at(user, moment, includes_now=includes).at(moment) for includes in (False, True))
        times = shard.events.ts[start:end].tolist()
        found.append(next(each for each in both if [t for m in each.modalities.values() for t in m.ts] == times))
    return found, shard


@torch.no_grad()
def embed(model: UserModel, shard: Shard, count: int, query: str, layout: str) -> NDArray[np.float32]:
    """The trainer's way to a vector, (count, 128)."""
    model.eval()
    rows = np.arange(count)
    users = user_tokens(shard.samples.take(rows))
    users = with_events(users, rows, shard.events, model.modalities, model.adapters.widths)
    states = user_states(model, users, None, query_tail(model, [query], layout), None).states
    found: NDArray[np.float32] = model.embed(states).numpy()
    return found


if __name__ == "__main__":
    own = PretrainSettings(
        steps=int(os.environ["STEPS"]), batch=24, aspects=3, warmup=4, response_rows=4, event_users=6, event_share=0.5,
        average=0.5,
    )  # fmt: skip
    train(trainer(Path(sys.argv[1]), own), Path(sys.argv[2]), save_every=2)
