"""UserU on disk: users as the model sees them at moments past, and what came true, in shards of some thousands.

A shard stands alone, so that training reads one after the other and its memory does not grow with the data. The
manifest is written last: a folder with one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from encoder.learning.user_u.aspects import Aspect
from encoder.model import features
from encoder.model.adapters import number_names
from store.base.errors import NotFoundError, WeightsError
from store.base.files import open_atomic, write_json
from store.base.settings import ModalitySettings

MANIFEST = "manifest.json"
FORMAT = 1


class Samples(NamedTuple):
    """Of n samples.

    users: int64 (n,), of the history the shard was made from. moments: int64 (n,), ms, what the users stand at.
    means: float16 (n, modalities + 1, dim). stats: float32 (n, statistics). match: float16 (n, modalities + 1,
    modalities). classes: int8 (n, aspects, horizons), -1 = not asked. query: int32 (n,), of the manifest's queries that
    one sample alone is asked, whose class is `answer`, int8 (n,); -1 = none.
    """

    users: NDArray[np.int64]
    moments: NDArray[np.int64]
    means: NDArray[np.float16]
    stats: NDArray[np.float32]
    match: NDArray[np.float16]
    classes: NDArray[np.int8]
    query: NDArray[np.int32]
    answer: NDArray[np.int8]

    def take(self, rows: NDArray[np.intp] | slice) -> Samples:
        """Some of them."""
        taken: list[Any] = [column[rows] for column in self]
        return Samples(*taken)


class Events(NamedTuple):
    """Rows of the samples' windows, those of a sample and modality side by side, in order.

    starts: int64 (n, modalities + 1), where each one's begin; the last column where the sample's end. ts: int64 (r,).
    numbers: float32 (r, most numbers of a modality). vectors: int32 (r,), rows of the shard's `table`. cuts: bool (r,),
    whether a chunk begins. table: float16 (distinct texts, dim).
    """

    starts: NDArray[np.int64]
    ts: NDArray[np.int64]
    numbers: NDArray[np.float32]
    vectors: NDArray[np.int32]
    cuts: NDArray[np.bool_]
    table: NDArray[np.float16]


class Shard(NamedTuple):
    """samples and the events of their windows."""

    samples: Samples
    events: Events


@dataclass(frozen=True)
class Question:
    """An aspect as training asks it. Answers: per class its wordings."""

    name: str
    questions: list[str]
    answers: list[list[str]]
    weight: float

    @property
    def binary(self) -> bool:
        """Whether the answers are no and yes, in this order."""
        return len(self.answers) == 2

    @classmethod
    def of(cls, aspect: Aspect) -> Question:
        """What of an aspect has to be known after its classes were counted."""
        return cls(aspect.name, list(aspect.questions), [list(each) for each in aspect.answers], aspect.weight)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    modalities: names of their numbers. shards: samples of each, by file name. horizons: days. questions: of `classes`.
    queries: asked of single samples, of the class `query_answers`. about: where it comes from, seed, zone.
    """

    modalities: dict[str, list[str]]
    dim: int
    shards: dict[str, int]
    horizons: list[int]
    questions: list[Question]
    queries: list[str]
    query_answers: list[list[str]]
    about: dict[str, Any]
    features: int = features.VERSION
    format: int = FORMAT

    @property
    def samples(self) -> int:
        """In all shards."""
        return sum(self.shards.values())

    def check(self, modalities: Mapping[str, ModalitySettings], folder: Path) -> None:
        """Raises WeightsError where the shards are of other modalities or statistics than the model's."""
        wanted = {name: number_names(m) for name, m in modalities.items()}
        if wanted != self.modalities or self.features != features.VERSION:
            raise WeightsError(
                f"{folder} was made with modalities {self.modalities}, statistics {self.features}; the configuration "
                f"has {wanted}, statistics {features.VERSION}",
                action="make it again, in an empty folder",
                code="weights_unusable",
            )


def write_shard(folder: Path, name: str, shard: Shard) -> None:
    """One file; replaces what has its name. Raises OSError."""
    tensors = {f"samples.{key}": value for key, value in shard.samples._asdict().items()}
    tensors |= {f"events.{key}": value for key, value in shard.events._asdict().items()}
    with open_atomic(folder / name) as file:
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, file.name)


def read_shard(folder: Path, name: str) -> Shard:
    """Raises NotFoundError."""
    try:
        tensors = load_file(folder / name)
    except FileNotFoundError:
        raise NotFoundError(f"{folder} has no {name}", action="make the training data again") from None
    return Shard(
        Samples(*(tensors[f"samples.{key}"] for key in Samples._fields)),
        Events(*(tensors[f"events.{key}"] for key in Events._fields)),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Last of all. Raises OSError."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Raises NotFoundError, WeightsError: not there, or of another format."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{folder} holds no training data: it has no {MANIFEST}", action="make it first") from None
    if raw.get("format") != FORMAT:
        raise WeightsError(
            f"{folder / MANIFEST} is not of format {FORMAT}", action="make it again", code="weights_unusable"
        )
    questions = [Question(**each) for each in raw.pop("questions")]
    return Manifest(questions=questions, **raw)
