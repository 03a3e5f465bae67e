"""From vectors and numbers to tokens: one adapter for every modality, told the names of what it is given.

Whatever is configured, known to a checkpoint or not, goes through the same weights: the text vectors of the modality's
name and of each number's name say what is read. A modality that a checkpoint was trained on has residuals on top; they
are zero for all others. Names, shared weights and residuals fold into one linear layer a modality, so a token costs
what an adapter of its own would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu

from encoder.statistics import statistics
from encoder.statistics.table import ACTIVITY, NUMBER, TEXTS
from store.base.settings import ModalityKind, ModalitySettings

BUCKETS = (-4.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Signed logarithms around which an event's number is told apart: fixed, as there are no percentiles of unseen data."""
FEATURES = 1 + len(BUCKETS)
"""Of an event's number, beside whether it is present."""
NUMBER_MEAN, NUMBER_SCALE = 2.0, 2.0
"""Amounts of 1 to 1,000 have signed logarithms of about 1 to 7."""

STANDARD_BOUND = 4.0
"""Of a standardised statistic: what is further out says no more than that it is far out."""

_OWN = len(ACTIVITY) + len(TEXTS)

Vectors = Callable[[str], NDArray[np.float32]]
"""A text's unit vector, float32 (dim,)."""


def spoken(name: str) -> str:
    """A name of the configuration as words: `page_click` → `page click`."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def number_names(settings: ModalitySettings) -> list[str]:
    """Of a modality's numbers; what tells two checkpoints' modalities of one name apart."""
    return ["value"] if settings.kind is ModalityKind.TABULAR else list(settings.numbers)


class Names(NamedTuple):
    """Text vectors of length sqrt(dim). modality: (modalities, dim). number: (numbers of all modalities, dim)."""

    modality: Tensor
    number: Tensor

    @classmethod
    def of(cls, modalities: Mapping[str, ModalitySettings], vectors: Vectors, dim: int) -> Names:
        """Of configured modalities, in their order."""
        numbers = [spoken(number) for settings in modalities.values() for number in number_names(settings)]
        return cls(_stack([spoken(name) for name in modalities], vectors, dim), _stack(numbers, vectors, dim))


def _stack(texts: Sequence[str], vectors: Vectors, dim: int) -> Tensor:
    rows = [np.asarray(vectors(text), np.float32) for text in texts]
    stacked: Tensor = torch.from_numpy(np.stack(rows) if rows else np.zeros((0, dim), np.float32))
    return stacked * math.sqrt(dim)


class _Named(nn.Module):
    """Linear in what is the same of every modality, in its name, and in each of its numbers as its name says."""

    def __init__(self, dim: int, fixed: int, per_number: int, hidden: int) -> None:
        """fixed: inputs of every modality. per_number: inputs of each number."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim + fixed, dim)
        self.name = nn.Linear(dim, dim, bias=False)
        self.number = nn.Linear(per_number, dim, bias=False)
        self.gate = nn.Linear(dim, dim, bias=False)
        self.outer = nn.Linear(dim, hidden)

    def folded(self, modality: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """modality (dim,), numbers (k, dim): their names → weight (dim, dim + fixed + k * per_number), bias (dim,)."""
        gates = 1 + self.gate(numbers)
        own = (gates[:, :, None] * self.number.weight).movedim(0, 1).flatten(1)
        return torch.cat([self.inner.weight, own], 1), self.inner.bias + self.name(modality)


class EventAdapter(_Named):
    """Of an event token: its text vector, and of each number `FEATURES` and whether it is present."""

    buckets: Tensor

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, 0, FEATURES + 1, hidden)
        self.register_buffer("buckets", torch.tensor(BUCKETS), persistent=False)
        self.shift = nn.Linear(dim, dim, bias=False)

    def folded(self, modality: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """See above; what a number's name says enters with its presence."""
        weight, bias = super().folded(modality, numbers)
        ends = self.norm.normalized_shape[0] + (FEATURES + 1) * torch.arange(1, len(numbers) + 1) - 1
        shift = torch.zeros_like(weight).index_copy(1, ends.to(weight.device), self.shift(numbers).T)
        return weight + shift, bias

    def inputs(self, vectors: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """vectors (n, dim), values and present (n, k) as in `features.Numbers` → (n, dim + k * (FEATURES + 1))."""
        told = torch.tanh(values[..., None] - self.buckets)
        each = torch.cat([(values[..., None] - NUMBER_MEAN) / NUMBER_SCALE, told], -1) * present[..., None]
        each = torch.cat([each, present[..., None]], -1)
        return torch.cat([self.norm(vectors), each.flatten(1)], 1)


class SummaryAdapter(_Named):
    """Of a modality's summary token: the mean vector, statistics of every modality, and those of each number."""

    mean: Tensor
    scale: Tensor
    number_mean: Tensor
    number_scale: Tensor

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, _OWN, len(NUMBER), hidden)
        self.matched = nn.Linear(dim, dim, bias=False)
        for name, size in (("mean", _OWN), ("number_mean", len(NUMBER))):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("scale", _OWN), ("number_scale", len(NUMBER))):
            self.register_buffer(name, torch.ones(size))

    def standard(self, k: int) -> tuple[Tensor, Tensor]:
        """(mean, scale) of the statistics of a modality with k numbers, as a checkpoint has fitted them."""
        return (
            torch.cat([self.mean, self.number_mean.repeat(k)]),
            torch.cat([self.scale, self.number_scale.repeat(k)]),
        )


class UserAdapter(nn.Module):
    """Of the user token: mean vector and statistics of all events, and what each modality's adapter made of its own."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim + len(ACTIVITY), dim)
        self.pooled = nn.Linear(dim, dim, bias=False)
        self.outer = nn.Linear(dim, hidden)
        self.register_buffer("mean", torch.zeros(len(ACTIVITY)))
        self.register_buffer("scale", torch.ones(len(ACTIVITY)))

    def forward(self, mean: Tensor, stats: Tensor, inner: Tensor) -> Tensor:
        """mean (n, dim), normed, stats (n, len(ACTIVITY)), inner (n, modalities, dim) → (n, hidden)."""
        own = torch.cat([mean, _bounded((stats - self.mean) / self.scale)], 1)
        together = inner.sum(1) / max(inner.shape[1], 1) ** 0.5
        return cast(Tensor, self.outer(gelu(self.inner(own) + self.pooled(together))))


class Residuals(nn.Module):
    """What a checkpoint knows of one modality beside its names; zero where it knows nothing.

    event, summary: added to the folded weights. matched: (dim,), asked: (hidden,): added to what the name gives.
    mean, scale: of the modality's own statistics, which `summary` reads standardised by them: one that is nearly always
    zero would be nothing by the scale of all modalities.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, numbers: int, hidden: int) -> None:
        super().__init__()
        width = _OWN + numbers * len(NUMBER)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.event = nn.Linear(dim + numbers * (FEATURES + 1), dim)
        self.summary = nn.Linear(dim + width, dim)
        self.matched = nn.Parameter(torch.zeros(dim))
        self.asked = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def clear(self) -> None:
        """Know nothing."""
        for parameter in self.parameters():
            parameter.zero_()


class _Folded(NamedTuple):
    """events: weight and bias per modality. summary: (modalities, dim, inputs), padded; the statistics come twice, by
    the scale of all modalities and by the modality's own. mean, scale: of both, (modalities, 1, statistics twice).
    bias: (modalities, 1, dim). matched: (modalities, dim). asked: (modalities, hidden).
    """

    events: list[tuple[Tensor, Tensor]]
    summary: Tensor
    mean: Tensor
    scale: Tensor
    bias: Tensor
    matched: Tensor
    asked: Tensor


class Adapters(nn.Module):
    """All adapters of a model."""

    modality_names: Tensor
    number_names: Tensor
    columns: Tensor

    def __init__(self, modalities: Mapping[str, ModalitySettings], names: Names, dim: int, hidden: int) -> None:
        super().__init__()
        self.event = EventAdapter(dim, hidden)
        self.summary = SummaryAdapter(dim, hidden)
        self.user = UserAdapter(dim, hidden)
        self.ask = nn.Linear(dim, hidden, bias=False)
        self.told = nn.Linear(dim, hidden, bias=False)
        self.asked_of = nn.Linear(dim, hidden, bias=False)
        self.residual = nn.ModuleDict({name: Residuals(dim, m.number_width, hidden) for name, m in modalities.items()})
        self.dim = dim
        self.register_buffer("modality_names", names.modality, persistent=False)
        self.register_buffer("number_names", names.number, persistent=False)
        self.widths = [m.number_width for m in modalities.values()]
        sizes = [len(statistics.modality_names(m)) for m in modalities.values()]
        self.register_buffer("columns", _columns(sizes), persistent=False)
        self._folded: _Folded | None = None
        self.dropout = self.token_dropout = self.mean_dropout = 0.0
        """In training: of what is inside the adapters, of whole summary tokens, and of mean text vectors."""
        self.residual_scale = 1.0
        """In training, 0 where names alone have to do."""
        self.name_noise = 0.0
        """In training, of names, beside their own length: others are called almost so."""

    def forget_folded(self) -> None:
        """To be called when a parameter has changed while gradients are off."""
        self._folded = None

    def train(self, mode: bool = True) -> Adapters:
        """As a module's; what was folded before is forgotten."""
        self.forget_folded()
        return super().train(mode)

    def residuals(self, modality: str) -> Residuals:
        """Of a modality."""
        return cast(Residuals, self.residual[modality])

    def readout(self, query: Tensor) -> Tensor:
        """query: unit text vector (dim,) → what it adds to <USER_EMB>, (hidden,)."""
        return cast(Tensor, self.ask(query * math.sqrt(self.dim)))

    def gates(self, queries: Tensor) -> Tensor:
        """queries: text vectors (scenarios, dim) → how much each is told of the user token, (scenarios, hidden)."""
        return cast(Tensor, 1 + self.told(queries * math.sqrt(self.dim)))

    @property
    def asked(self) -> Tensor:
        """(modalities, hidden): enters <USER_EMB> by the cosine of its query and a modality's mean."""
        return self._fold().asked

    def events(self, index: int, vectors: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """Event tokens of the modality of this index: vectors (n, dim), numbers (n, k) → (n, hidden)."""
        weight, bias = self._fold().events[index]
        inner = nn.functional.linear(self.event.inputs(vectors, values, present), weight, bias)
        return cast(Tensor, self.event.outer(gelu(inner)))

    def summaries(self, means: Tensor, stats: Tensor, match: Tensor) -> Tensor:
        """Summary tokens, (users, modalities + 1, hidden): the modalities in order, then the user.

        Args:
            means: (users, modalities + 1, dim). stats: (users, statistics). match: (users, modalities + 1, modalities).
                As in `statistics.Statistics`.
        """
        folded, count = self._fold(), len(self.widths)
        normed = self._less(self.summary.norm(means[:, :count])).movedim(1, 0)
        padded = nn.functional.pad(stats, (0, 1))[:, self.columns].movedim(1, 0)
        standard = _bounded((torch.cat([padded, padded], 2) - folded.mean) / folded.scale)
        inner = torch.baddbmm(folded.bias, torch.cat([normed, standard], 2), folded.summary.mT)
        inner = gelu(inner.movedim(0, 1) + match[:, :count] @ folded.matched)
        if self.training:
            inner = self._dropped(inner)
        user = self.user(self._less(self.user.norm(means[:, count])), stats[:, -len(ACTIVITY) :], inner)
        return torch.cat([self.summary.outer(inner), user[:, None]], 1)

    def _less(self, means: Tensor) -> Tensor:
        """A mean of texts nearly says who the user is, which would be learned by heart."""
        return nn.functional.dropout(means, self.mean_dropout) if self.training else means

    def _dropped(self, inner: Tensor) -> Tensor:
        """(users, modalities, dim): some values, and all of some modalities, are not told."""
        inner = nn.functional.dropout(inner, self.dropout)
        return inner * (torch.rand(*inner.shape[:2], 1, device=inner.device) >= self.token_dropout)

    def _fold(self) -> _Folded:
        if torch.is_grad_enabled():
            return self._folded_now()
        if self._folded is None or self._folded.bias.device != self.columns.device:
            self._folded = self._folded_now()
        return self._folded

    def _called(self, names: Tensor) -> Tensor:
        """Names as they are, in training disturbed to the same length."""
        if not self.training or not self.name_noise:
            return names
        disturbed = names + self.name_noise * torch.randn_like(names)
        return disturbed / math.sqrt(1 + self.name_noise**2)

    def _folded_now(self) -> _Folded:
        called, numbers_called = self._called(self.modality_names), self._called(self.number_names)
        events, weights, biases, means, scales = [], [], [], [], []
        width = self.columns.shape[1]
        at = 0
        for i, k in enumerate(self.widths):
            own, name = self.residuals(list(self.residual)[i]), called[i]
            numbers, at = numbers_called[at : at + k], at + k
            weight, bias = self.event.folded(name, numbers)
            share = self.residual_scale if self.training else 1.0
            events.append((weight + share * own.event.weight, bias + share * own.event.bias))
            weight, bias = self.summary.folded(name, numbers)
            residual, pad = share * own.summary.weight, (0, width - own.mean.shape[0])
            parts = [
                weight[:, : self.dim] + residual[:, : self.dim],
                nn.functional.pad(weight[:, self.dim :], pad),
                nn.functional.pad(residual[:, self.dim :], pad),
            ]
            weights.append(torch.cat(parts, 1))
            biases.append(bias + share * own.summary.bias)
            mean, scale = self.summary.standard(k)
            means.append(torch.cat([nn.functional.pad(each, pad) for each in (mean, own.mean)]))
            scales.append(torch.cat([nn.functional.pad(each, pad, value=1.0) for each in (scale, own.scale)]))
        of = [self.residuals(name) for name in self.residual]
        matched = self.summary.matched(called) + torch.stack([own.matched for own in of])
        asked = self.asked_of(called) + torch.stack([own.asked for own in of])
        mean, scale, bias = (torch.stack(each)[:, None] for each in (means, scales, biases))
        return _Folded(events, torch.stack(weights), mean, scale, bias, matched, asked)


def _bounded(standard: Tensor) -> Tensor:
    return standard.clamp(-STANDARD_BOUND, STANDARD_BOUND)


def _columns(sizes: Sequence[int]) -> Tensor:
    """Where each modality's statistics are among a user's, (modalities, longest); padded by one beyond the last."""
    end = sum(sizes) + len(ACTIVITY)
    out = torch.full((len(sizes), max(sizes, default=0)), end, dtype=torch.long)
    at = 0
    for row, size in zip(out, sizes, strict=True):
        row[:size] = torch.arange(at, at + size)
        at += size
    return out
