"""What a model tells without having been fitted to: cosines of users and answers, on samples that it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.forward.forward import user_states
from encoder.learning.pretraining.batches import user_tokens, with_events
from encoder.learning.pretraining.trainer import query_tail
from encoder.learning.tasks.scores import auc
from encoder.learning.user_u.shards import Manifest, Shard, read_shard
from encoder.learning.user_u.wordings import spans
from encoder.model.answer_tower import embed_texts
from encoder.model.user_model import UserModel

_BATCH = 64


@torch.no_grad()
def zero_shot(
    model: UserModel, folder: Path, manifest: Manifest, *, layout: str, events: bool = True
) -> dict[str, float]:
    """AUC per question of no and yes, of the longest horizon, in each one's first wording; those without both left out.

    Args:
        events: False leaves the event tokens out.
    """
    model.eval()
    asked = [i for i, question in enumerate(manifest.questions) if question.binary]
    said = spans(manifest.horizons[-1])[0]
    queries = [manifest.questions[i].questions[0].format(horizon=said) for i in asked]
    texts = embed_texts(model, [manifest.questions[i].answers[side][0] for i in asked for side in (0, 1)])
    yes = (texts[1::2] - texts[::2])[None]
    scores, classes = [], []
    for name in sorted(manifest.shards):
        shard = read_shard(folder, name)
        vectors = _vectors(model, shard, queries, layout, events=events)
        scores.append((vectors * yes).sum(-1).numpy())
        classes.append(shard.samples.classes[:, asked, -1])
    found, true = np.concatenate(scores), np.concatenate(classes)
    out = {}
    for column, i in enumerate(asked):
        kept = true[:, column] >= 0
        y = true[kept, column] == 1
        if 0 < y.sum() < len(y):
            out[manifest.questions[i].name] = auc(found[kept, column].astype(np.float64), y)
    return out


def _vectors(model: UserModel, shard: Shard, queries: list[str], layout: str, *, events: bool) -> torch.Tensor:
    tail = query_tail(model, queries, layout)
    out = []
    for start in range(0, len(shard.samples.users), _BATCH):
        rows: NDArray[np.intp] = np.arange(start, min(start + _BATCH, len(shard.samples.users)))
        users = user_tokens(shard.samples.take(rows))
        if events:
            users = with_events(users, rows, shard.events, model.modalities, model.adapters.widths)
        states = user_states(model, users, None, tail, None).states
        out.append(model.embed(states).view(len(rows), len(queries), -1))
    return torch.cat(out)
