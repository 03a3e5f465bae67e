"""Pretraining: the user tower learns to tell, from a user's tokens and a question, which answer comes true.

Each step depends on the seed, its number, and what the steps before made of the weights: a run that was killed goes on
from its last state and ends in the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.forward import tail as tails
from encoder.forward.forward import user_states
from encoder.forward.tail import MAX_QUERY_TOKENS, Tail
from encoder.forward.user_tokens import UserTokens
from encoder.learning.pretraining import losses
from encoder.learning.pretraining.batches import Asked, Batches, ResponseRows, user_tokens, with_events
from encoder.learning.pretraining.settings import PretrainSettings
from encoder.learning.pretraining.teacher import Targets
from encoder.learning.user_u.shards import Events, Manifest, Samples, read_shard
from encoder.model.answer_tower import embed_texts
from encoder.model.user_model import UserModel
from encoder.statistics.table import ACTIVITY, NUMBER, TEXTS
from store.base.files import open_atomic

_LAST_STATE = "state.pt"
_FLOOR = 0.05
"""Of the learning rate at the end, and of a statistic's deviation."""


class Prototypes(nn.Module):
    """A free vector per class of every question: what its answers would be if they were not texts. Training only."""

    def __init__(self, manifest: Manifest, temperature: float) -> None:
        super().__init__()
        sizes = [len(question.answers) for question in manifest.questions]
        sizes.append(len(manifest.query_answers))
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self.vectors = nn.Parameter(torch.empty(self.starts[-1], 128))
        self.bias = nn.Parameter(torch.zeros(self.starts[-1]))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.log_text_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        nn.init.normal_(self.vectors, std=0.05)

    @property
    def scale(self) -> Tensor:
        """Of cosines to the prototypes."""
        return self.log_scale.exp()

    @property
    def text_scale(self) -> Tensor:
        """Of cosines to answers' texts: one over the temperature."""
        return self.log_text_scale.exp().clamp(max=100)

    def of(self, question: int) -> tuple[Tensor, Tensor]:
        """(vectors, biases) of a question's classes; of the samples' own question where it is beyond the others."""
        own = slice(self.starts[question], self.starts[question + 1])
        return self.vectors[own], self.bias[own]


@dataclass
class Step:
    """What a step found. loss: of its samples. parts: by name."""

    number: int
    loss: float
    learning_rate: float
    parts: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One run over a folder of shards. Single-threaded, but for torch's own threads."""

    def __init__(
        self,
        model: UserModel,
        folder: Path,
        manifest: Manifest,
        settings: PretrainSettings,
        targets: Targets | None = None,
    ) -> None:
        """targets: of the shards, to be distilled. Raises NotFoundError: a shard is missing."""
        self._targets = targets
        self.model, self.settings, self.manifest = model, settings, manifest
        self.step = 0
        self._batches = Batches(folder, manifest, settings)
        self._responses = ResponseRows.read(folder, manifest)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self._prototypes = Prototypes(manifest, settings.temperature)
        fit_statistics(model, read_shard(folder, sorted(manifest.shards)[0]).samples)
        model.backbone.dropout = model.adapters.dropout = settings.dropout
        model.adapters.token_dropout = settings.token_dropout
        model.adapters.mean_dropout = settings.mean_dropout
        model.requires_grad_(True)
        self._trained = [*self._named_parameters()]
        decayed = [p for _, p in self._trained if p.ndim >= 2]
        plain = [p for _, p in self._trained if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate, betas=(0.9, 0.98),
        )  # fmt: skip
        self._average = {name: p.detach().clone() for name, p in self._trained}

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        unused = ("lm.embed_tokens",)
        own = [(name, p) for name, p in self.model.named_parameters() if not name.startswith(unused)]
        return own + [(f"prototypes.{name}", p) for name, p in self._prototypes.named_parameters()]

    def run_step(self) -> Step:
        """One step, and what it found before the weights moved."""
        settings, number = self.settings, self.step
        rng = np.random.default_rng([settings.seed, 7, number])
        torch.manual_seed(settings.seed * 1_000_003 + number)
        rate = self._learning_rate(number)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        known = rng.random() < settings.residual_share
        self.model.adapters.residual_scale = float(known)
        self.model.adapters.name_noise = 0.0 if known else settings.name_noise
        name, shard, rows = self._batches.at(number)
        events = None
        if rng.random() < settings.event_share:
            rows, events = rows[: settings.event_users], shard.events
        samples = shard.samples.take(rows)
        asked = self._batches.ask(samples, rng)
        targets = self._targets[name][rows][:, asked.place] if self._targets is not None and asked.longest else None
        parts = self._losses(self._tokens(samples, rows, events, rng), asked, targets)
        loss = sum(parts.values(), torch.zeros(()))
        if self._responses is not None and settings.response_weight:
            parts["responses"] = settings.response_weight * self._response_loss(rng)
            loss = loss + parts["responses"]
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for _, p in self._trained], settings.clip)
        self._optimizer.step()
        kept = min(settings.average, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, parameter in self._trained:
                self._average[name].lerp_(parameter, 1 - kept)
        self.step += 1
        return Step(number, loss.item(), rate, {name: part.item() for name, part in parts.items()})

    def _learning_rate(self, number: int) -> float:
        settings = self.settings
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, number / settings.steps)))
        return settings.learning_rate * min(1.0, (number + 1) / settings.warmup) * (cosine * (1 - _FLOOR) + _FLOOR)

    def _tokens(
        self, samples: Samples, rows: NDArray[np.intp], events: Events | None, rng: np.random.Generator
    ) -> list[UserTokens]:
        deviations = self._deviations()

        def disturb(stats: NDArray[np.float32]) -> NDArray[np.float32]:
            return stats + self.settings.noise * deviations * rng.standard_normal(stats.shape, np.float32)

        users = user_tokens(samples, disturb=disturb)
        if events is None:
            return users
        return with_events(users, rows, events, self.model.modalities, self.model.adapters.widths)

    def _deviations(self) -> NDArray[np.float32]:
        adapters = self.model.adapters
        parts = [adapters.residuals(name).scale for name in self.model.modalities]
        return torch.cat([*parts, adapters.user.scale]).numpy()

    def _losses(self, users: list[UserTokens], asked: Asked, targets: NDArray[np.float32] | None) -> dict[str, Tensor]:
        settings = self.settings
        vectors = self._embed(users, asked.queries)
        flat = [text for each in asked.answers for text in each]
        texts = embed_texts(self.model, flat) if settings.text or settings.contrastive else None
        classes = torch.from_numpy(asked.classes.astype(np.int64))
        found: dict[str, list[Tensor]] = {}
        at = 0
        prototypes = self._prototypes
        for k, place in enumerate(asked.place.tolist()):
            size, own = len(asked.answers[k]), vectors[:, k]
            said = None if texts is None else texts[at : at + size]
            free, bias = prototypes.of(place)
            if said is not None and settings.text:
                found.setdefault("text", []).append(losses.answers(own, said, classes[:, k], prototypes.text_scale))
            if settings.classes:
                found.setdefault("classes", []).append(losses.answers(own, free, classes[:, k], prototypes.scale, bias))
            if targets is not None and settings.distillation and not np.isnan(targets[:, k]).all():
                goal = torch.from_numpy(targets[:, k])
                taught = losses.distillation(own, free, goal, prototypes.scale, bias)
                if said is not None:
                    taught = (taught + losses.distillation(own, said, goal, prototypes.text_scale)) / 2
                found.setdefault("distillation", []).append(taught)
            at += size
        out = {name: torch.stack(each).mean() * getattr(settings, name) for name, each in found.items()}
        if texts is not None and settings.contrastive:
            out["contrastive"] = settings.contrastive * self._contrastive(vectors, texts, asked, classes)
        return out

    def _contrastive(self, vectors: Tensor, texts: Tensor, asked: Asked, classes: Tensor) -> Tensor:
        starts = torch.tensor(np.cumsum([0, *map(len, asked.answers)])[:-1])
        kept = classes >= 0
        answer = (starts + classes)[kept]
        return losses.contrastive(vectors[kept], texts[answer], answer, self.settings.temperature)

    def _response_loss(self, rng: np.random.Generator) -> Tensor:
        assert self._responses is not None
        rows = rng.integers(0, len(self._responses.samples.users), self.settings.response_rows)
        samples = self._responses.samples.take(rows)
        distinct, place = np.unique(samples.query, return_inverse=True)
        users = self._tokens(samples, rows, None, rng)
        vectors = self._embed(users, [self.manifest.queries[query] for query in distinct.tolist()])
        own = vectors[torch.arange(len(users)), torch.from_numpy(place.reshape(-1))]
        texts = embed_texts(self.model, [str(rng.choice(each)) for each in self.manifest.query_answers])
        classes = torch.from_numpy(samples.answer.astype(np.int64))
        free, bias = self._prototypes.of(len(self.manifest.questions))
        by_text = losses.answers(own, texts, classes, self._prototypes.text_scale)
        return by_text + losses.answers(own, free, classes, self._prototypes.scale, bias)

    def _embed(self, users: list[UserTokens], queries: list[str]) -> Tensor:
        """(users, queries, 128), unit length."""
        tail = query_tail(self.model, queries, self.settings.layout, dropout=self.settings.query_dropout)
        states = user_states(self.model, users, None, tail, None).states
        return self.model.embed(states).view(len(users), len(queries), -1)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "step": self.step,
            "parameters": {name: p.detach() for name, p in self._trained},
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }

    def save(self, folder: Path) -> None:
        """Write the state, in place of the one before. Raises OSError."""
        with open_atomic(folder / _LAST_STATE) as file:
            torch.save(self.state(), file.name)

    def resume(self, folder: Path) -> bool:
        """Go on where a run stopped; False where there is no state."""
        path = folder / _LAST_STATE
        if not path.exists():
            return False
        found = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, parameter in self._trained:
                parameter.copy_(found["parameters"][name])
        self._average = found["average"]
        self._optimizer.load_state_dict(found["optimizer"])
        self.step = int(found["step"])
        return True

    def averaged(self) -> dict[str, Tensor]:
        """The weights to use: the average of the run's, by the name of each parameter of the model."""
        return {name: t for name, t in self._average.items() if not name.startswith("prototypes.")}

    @contextmanager
    def using_average(self) -> Iterator[UserModel]:
        """The model with the averaged weights in it; afterwards it has its own again."""
        own = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(self.averaged(), strict=False)
            yield self.model.eval()
        finally:
            self.model.load_state_dict(own)


def query_tail(model: UserModel, queries: list[str], layout: str, *, dropout: float = 0.0) -> Tail:
    """Tail of queries, in the graph of the model's parameters. dropout: of whole tokens, in training."""
    segments, vectors = [], []
    for query in queries:
        vector = torch.from_numpy(model.vectors(query))
        tokens = model.text_tokens(model.tokenize(query)[:MAX_QUERY_TOKENS])
        if dropout:
            tokens = tokens * (torch.rand(len(tokens), 1, device=tokens.device) >= dropout)
        segments.append(torch.cat([tokens, model.readout(vector)[None]]))
        vectors.append(vector)
    lead = len(model.modalities) + 1
    if layout == "compiled":
        return tails.build_compiled(model.backbone, segments, lead, vectors)
    return tails.build(segments, lead if layout == "chunked" else 0, vectors)


def fit_statistics(model: UserModel, samples: Samples) -> None:
    """Standardise statistics as they are in samples: a modality's for its residuals, all for what is shared."""
    adapters = model.adapters
    stats = torch.from_numpy(samples.stats)
    own, numbers, at = [], [], 0
    fixed = len(ACTIVITY) + len(TEXTS)
    for name, k in zip(model.modalities, adapters.widths, strict=True):
        residual = adapters.residuals(name)
        mine = stats[:, at : at + fixed + k * len(NUMBER)]
        residual.mean.copy_(mine.mean(0))
        residual.scale.copy_(mine.std(0).clamp(min=_FLOOR))
        own.append(stats[:, at : at + fixed])
        at += fixed
        numbers += [stats[:, at + j * len(NUMBER) :][:, : len(NUMBER)] for j in range(k)]
        at += k * len(NUMBER)
    summary = adapters.summary
    for (mean, scale), found in (
        ((summary.mean, summary.scale), torch.cat(own)),
        ((summary.number_mean, summary.number_scale), torch.cat(numbers) if numbers else torch.zeros(2, len(NUMBER))),
        ((adapters.user.mean, adapters.user.scale), stats[:, at:]),
    ):
        mean.copy_(found.mean(0))
        scale.copy_(found.std(0).clamp(min=_FLOOR))
    adapters.forget_folded()
