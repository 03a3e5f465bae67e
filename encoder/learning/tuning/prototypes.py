"""Prototypes and a soft prompt, learned together over a frozen model (arXiv 2602.14492, prompt tuning).

A class is a vector; a user is of the class whose vector is nearest by cosine: softmax over cosine / temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from encoder.learning.tuning.settings import TuneSettings
from encoder.learning.tuning.states import UserStates

_FLOOR = 0.1
"""Of the learning rate at the end."""
_CHOOSING = 1024
"""At most so many rows choose."""


@dataclass(frozen=True)
class Tuned:
    """tokens: (tokens, hidden). prototypes: (classes, 128), unit. step: after which it was, chosen by `losses`.

    losses: (step, loss of the users who choose), each class alike.
    """

    tokens: Tensor
    prototypes: Tensor
    step: int
    losses: list[tuple[int, float]]


def class_means(vectors: NDArray[np.float32], classes: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Unit vectors, (count, 128), of vectors (n, 128)."""
    means = np.stack([vectors[classes == c].mean(axis=0) for c in range(count)])
    found: NDArray[np.float32] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return found


def tune(
    states: UserStates,
    classes: NDArray[np.int64],
    train: NDArray[np.intp],
    choosing: NDArray[np.intp],
    means: NDArray[np.float32],
    settings: TuneSettings,
    on_step: Callable[[int, float], object] = lambda step, loss: None,
) -> Tuned:
    """A prompt and prototypes; equal for equal seeds on one machine.

    Args:
        classes: int64 (all,), of every user of the states. train, choosing: rows that are learned from, and that tell
            after which step to stop; each has every class.
        means: (classes, 128), where prototypes begin.
        on_step: called with the steps done and the loss.
    """
    rng = np.random.default_rng(settings.seed)
    device = states.model.embedding.device
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(settings.tokens, states.model.backbone.hidden, generator=generator)
    prompt = nn.Parameter((noise * states.token_scale).to(device))
    prototypes = nn.Parameter(torch.from_numpy(means.copy()).to(device))
    optimizer = torch.optim.AdamW([prompt, prototypes], lr=settings.learning_rate, weight_decay=0.0)
    of_class = [train[classes[train] == c] for c in range(len(means))]
    choosing = choosing[np.sort(rng.permutation(len(choosing))[:_CHOOSING])]
    losses: list[tuple[int, float]] = []
    best = (math.inf, 0, prompt.detach().clone(), prototypes.detach().clone())
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _share(step, settings)
        rows, asked = _balanced(of_class, settings.batch, rng)
        vectors = states.read(rows, states.tail(prompt))
        loss = cross_entropy(_logits(vectors, prototypes, settings), torch.from_numpy(asked).to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % settings.choose_every == 0 or step == settings.steps:
            found = _loss(states, classes, choosing, prompt, prototypes, settings)
            losses.append((step, found))
            if found < best[0]:
                best = (found, step, prompt.detach().clone(), prototypes.detach().clone())
        on_step(step, loss.item())
    return Tuned(best[2], normalize(best[3], dim=-1), best[1], losses)


def _share(step: int, settings: TuneSettings) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return min(1.0, step / settings.warmup) * (cosine * (1 - _FLOOR) + _FLOOR)


def _balanced(
    of_class: list[NDArray[np.intp]], batch: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(rows, their classes), as many of each class; a class with fewer comes with repetitions."""
    each = max(1, batch // len(of_class))
    rows = [rng.choice(own, each, replace=len(own) < each) for own in of_class]
    return np.concatenate(rows), np.repeat(np.arange(len(of_class)), each)


def _logits(vectors: Tensor, prototypes: Tensor, settings: TuneSettings) -> Tensor:
    return vectors @ normalize(prototypes, dim=-1).T / settings.temperature


@torch.no_grad()
def _loss(
    states: UserStates,
    classes: NDArray[np.int64],
    rows: NDArray[np.intp],
    prompt: Tensor,
    prototypes: Tensor,
    settings: TuneSettings,
) -> float:
    """Mean over the classes of the mean over a class's rows."""
    tail = states.tail(prompt)
    vectors = torch.cat([states.read(rows[at : at + 256], tail) for at in range(0, len(rows), 256)])
    true = torch.from_numpy(classes[rows]).to(vectors.device)
    own = cross_entropy(_logits(vectors, prototypes, settings), true, reduction="none")
    return float(torch.stack([own[true == c].mean() for c in np.unique(classes[rows]).tolist()]).mean())
