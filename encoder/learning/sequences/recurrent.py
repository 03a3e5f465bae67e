"""GRUs over steps: `coles`, trained by itself to know a user again, and `gru`, trained on the tasks' own answers.

CoLES after Babaev et al. 2022: pieces of one user's sequence are to be near each other, others' apart. Small enough for
two cores; seeded; everything learned from lies before the last moment of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.learning.baselines.probe import Columns
from encoder.learning.moments import Moments, moments
from encoder.learning.sequences.steps import Sequences, Steps, batch, sequences
from encoder.learning.tasks.rows import Split, TaskRows
from encoder.learning.tasks.scores import auc

WIDTH: Final = 128
LENGTH: Final = 48
WINDOW_MS: Final = 90 * 86_400_000

COLES_STEPS: Final = 600
COLES_USERS, COLES_PIECES = 96, 4
COLES_LEAST: Final = 3
"""Pieces of fewer steps say nothing."""
COLES_TEMPERATURE: Final = 0.1
COLES_HISTORY_MS: Final = 60 * 86_400_000
"""Pieces end this long after the first step of all, or later."""
GRU_EPOCHS: Final = 8
GRU_ROWS: Final = 256
_EMBEDDED = 1024

Show = Callable[[float, str], object]
Ints = NDArray[np.int64]


class Recurrent(nn.Module):
    """Steps → the state after the last one, (n, WIDTH)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Dropout(0.1))
        self.gru = nn.GRU(96, WIDTH, batch_first=True)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """steps (n, longest, width), lengths (n,)."""
        out, _ = self.gru(self.step(steps))
        found: Tensor = out[torch.arange(len(steps)), lengths - 1]
        return found


def train_coles(steps: Steps, tasks: Sequence[TaskRows], show: Show, *, seed: int = 0) -> Recurrent:
    """A network that has seen no answer, and nothing after the last moment of training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Recurrent(steps.features.shape[1] + 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, COLES_STEPS)
    until = max(int(task.now[task.split == Split.TRAIN].max()) for task in tasks)
    since = min(int(steps.ts.min()) + COLES_HISTORY_MS, until - 1)
    users = np.flatnonzero(np.diff(steps.starts) > 0)
    for step in range(COLES_STEPS):
        who = np.repeat(rng.choice(users, min(COLES_USERS, len(users)), replace=False), COLES_PIECES)
        now = rng.integers(since, until, len(who))
        pieces = sequences(steps, Moments(who, now, np.zeros(len(who), bool), {}), length=LENGTH, window_ms=WINDOW_MS)
        rows = np.flatnonzero(pieces.lengths >= COLES_LEAST)
        vectors = nn.functional.normalize(network(*_tensors(steps, pieces, now, rows)), dim=-1)
        loss = _contrastive(vectors, torch.from_numpy(who[rows]))
        _step(network, optimiser, loss)
        schedule.step()
        show(step / COLES_STEPS, f"coles: step {step} of {COLES_STEPS}, loss {loss.item():.3f}")
    return network


@dataclass(frozen=True)
class Supervised:
    """A network with a head per task."""

    network: Recurrent
    heads: nn.ModuleDict

    def scores(self, steps: Steps, tasks: Sequence[TaskRows], asked: Moments) -> dict[str, Columns]:
        """Log odds of each task's rows, float32 (rows, 1)."""
        vectors = torch.from_numpy(embed(self.network, steps, asked))
        with torch.inference_mode():
            found = {t.name: _logits(self.heads, t, vectors[asked.place[t.name]], np.arange(len(t.y))) for t in tasks}
        return {name: logits.numpy()[:, None] for name, logits in found.items()}


def train_gru(steps: Steps, tasks: Sequence[TaskRows], asked: Moments, show: Show, *, seed: int = 0) -> Supervised:
    """One network for all tasks, fitted on their rows of training; those of validation pick the epoch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Recurrent(steps.features.shape[1] + 2)
    heads = nn.ModuleDict({task.name: nn.Linear(WIDTH + task.extra.shape[1], 1) for task in tasks})
    both, made = nn.ModuleList([network, heads]), Supervised(network, heads)
    optimiser = torch.optim.AdamW(both.parameters(), lr=1e-3, weight_decay=1e-2)
    found = sequences(steps, asked, length=LENGTH, window_ms=WINDOW_MS)
    rows = [np.flatnonzero(task.split == Split.TRAIN) for task in tasks]
    pairs = np.concatenate([np.stack([np.full(len(own), i), own], axis=1) for i, own in enumerate(rows)])
    validation = [task.only(task.split == Split.VALIDATION) for task in tasks]
    seen = moments(validation)
    best, kept = -1.0, both.state_dict()
    for epoch in range(GRU_EPOCHS):
        both.train()
        show(epoch / GRU_EPOCHS, f"gru: epoch {epoch + 1} of {GRU_EPOCHS}, validation {best:.4f}")
        for chosen in np.array_split(rng.permutation(pairs), max(1, len(pairs) // GRU_ROWS)):
            _step(both, optimiser, _supervised_loss(made, steps, found, tasks, asked, chosen))
        of_epoch = made.scores(steps, validation, seen)
        reached = float(np.mean([auc(of_epoch[t.name][:, 0].astype(np.float64), t.y) for t in validation]))
        if reached > best:
            best, kept = reached, {name: tensor.clone() for name, tensor in both.state_dict().items()}
    both.load_state_dict(kept)
    return made


def _supervised_loss(
    made: Supervised, steps: Steps, found: Sequences, tasks: Sequence[TaskRows], asked: Moments, chosen: Ints
) -> Tensor:
    """Mean over rows. chosen: int64 (rows, 2), a task's place and its row."""
    places = np.array([asked.place[tasks[i].name][row] for i, row in chosen.tolist()])
    states = made.network(*_tensors(steps, found, asked.now, places))
    losses = []
    for i in np.unique(chosen[:, 0]).tolist():
        task, mine = tasks[i], chosen[:, 0] == i
        logits = _logits(made.heads, task, states[torch.from_numpy(mine)], chosen[mine, 1])
        y = torch.from_numpy(task.y[chosen[mine, 1]].astype(np.float32))
        losses.append(nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum"))
    return torch.stack(losses).sum() / len(chosen)


def embed(network: Recurrent, steps: Steps, asked: Moments) -> Columns:
    """Vectors of moments, float32 (m, WIDTH)."""
    network.eval()
    known = sequences(steps, asked, length=LENGTH, window_ms=WINDOW_MS)
    vectors = np.zeros((len(asked.users), WIDTH), np.float32)
    order = np.argsort(known.lengths, kind="stable")  # about equal lengths go together
    with torch.inference_mode():
        for rows in np.array_split(order, max(1, len(order) // _EMBEDDED)):
            vectors[rows] = network(*_tensors(steps, known, asked.now, rows)).numpy()
    return vectors


def _logits(heads: nn.ModuleDict, task: TaskRows, states: Tensor, rows: Ints) -> Tensor:
    beside = torch.from_numpy(np.log1p(task.extra[rows]))
    found: Tensor = heads[task.name](torch.cat([states, beside], dim=1))[:, 0]
    return found


def _contrastive(vectors: Tensor, who: Tensor) -> Tensor:
    """InfoNCE: other pieces of the same user against everybody's."""
    cosines = vectors @ vectors.T / COLES_TEMPERATURE
    itself = torch.eye(len(who), dtype=torch.bool)
    same = (who[:, None] == who) & ~itself
    logs = torch.log_softmax(cosines.masked_fill(itself, float("-inf")), dim=1)
    counted = same.any(1)
    mean = torch.where(same, logs, 0).sum(1) / same.sum(1).clamp(min=1)
    return -mean[counted].mean()


def _step(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def _tensors(steps: Steps, found: Sequences, now: Ints, rows: Ints) -> tuple[Tensor, Tensor]:
    made, lengths = batch(steps, found, now, rows)
    return torch.from_numpy(made), torch.from_numpy(lengths)
