"""Topics of a modality's texts: groups of near vectors, named by what is said most often in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History
from encoder.learning.user_u.aspects import Aspect, Kind, yes_or_no
from encoder.model.adapters import spoken
from store.base.errors import NotFoundError
from store.base.settings import ModalityKind

TOPICS = 48
MIN_TEXTS = 2 * TOPICS
"""With fewer distinct texts a modality has no topics."""


class Topics(NamedTuple):
    """of: per modality int64 (texts of the history,), each one's topic, -1 = none: a text may be said in several.
    aspects: one per topic."""

    of: dict[str, NDArray[np.int64]]
    aspects: list[Aspect]


def find(history: History, text_of: Callable[[int], str | None], *, until: int, seed: int, weight: float) -> Topics:
    """Topics of every modality with enough distinct texts; texts that come later are of none.

    Args:
        text_of: text of a row of `history.vectors`; of topics whose text is not known nothing is asked.
        until: ms, where what may be learned ends.
        weight: of all topics of a modality together.

    Raises:
        NotFoundError: scikit-learn is not installed.
    """
    of: dict[str, NDArray[np.int64]] = {}
    aspects: list[Aspect] = []
    first = 0
    for name, settings in history.settings.items():
        rows = history.modalities[name]
        texts, counts = np.unique(rows.vectors[(rows.vectors >= 0) & (rows.ts < until)], return_counts=True)
        if settings.kind is not ModalityKind.EVENTS or len(texts) < MIN_TEXTS:
            continue
        groups = _groups(history.vectors[texts].astype(np.float32), counts, seed)
        of[name] = np.full(len(history.vectors), -1, np.int64)
        of[name][texts] = groups + first
        for group in range(TOPICS):
            mine = np.flatnonzero(groups == group)
            said = text_of(int(texts[mine[np.argmax(counts[mine])]]))
            if said is not None:
                aspects.append(_aspect(name, first + group, " ".join(said.split()), weight / TOPICS))
        first += TOPICS
    return Topics(of, aspects)


def _aspect(modality: str, topic: int, said: str, weight: float) -> Aspect:
    called = spoken(modality)
    return Aspect(
        f"{modality}.topic.{topic}", Kind.TOPIC, modality,
        (f"Will there be a {called} like this within {{horizon}}: {said}?", f"{said}, in {{horizon}}?"),
        yes_or_no((said, f"there is: {said}"), (f"nothing like: {said}", f"there is none like: {said}")),
        topic=topic, weight=weight,
    )  # fmt: skip


def _groups(vectors: NDArray[np.float32], counts: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise NotFoundError("scikit-learn is not installed", action="pip install 'anchorstream[learn]'") from None
    found = KMeans(TOPICS, n_init=1, random_state=seed).fit_predict(vectors, sample_weight=np.sqrt(counts))
    return np.asarray(found, np.int64)
