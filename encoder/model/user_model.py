"""The parts around the language model: adapters, summary tokens, soft prompts, the user anchor, the shared head.

Every parameter is created from a seed and its own name, so adding a modality or a prompt leaves all others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from encoder.model.backbone import Backbone
from encoder.model.presets import Pretrained
from encoder.statistics import statistics
from encoder.statistics.table import ACTIVITY
from store.base.settings import ModalitySettings
from store.records.embedding import DIM

HEAD_WIDTH = 512
NUMBER_MEAN, NUMBER_SCALE = 2.0, 2.0
"""Standardisation of signed logs until a checkpoint brings fitted ones: amounts of 1 to 1,000 come to about -1 to 2."""


class Adapter(nn.Module):
    """LayerNorm of a text vector, numbers beside it → Linear → GELU → Linear."""

    def __init__(self, dim: int, extra: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim + extra, dim)
        self.outer = nn.Linear(dim, hidden)

    def forward(self, vectors: Tensor, extra: Tensor, added: Tensor | None = None) -> Tensor:
        """vectors (n, dim), extra (n, extra), added (n, dim), to what comes before the GELU → (n, hidden)."""
        inner = self.inner(torch.cat([self.norm(vectors), extra], -1))
        return cast(Tensor, self.outer(nn.functional.gelu(inner if added is None else inner + added)))


class SummaryAdapter(Adapter):
    """Of a summary token: statistics beside the mean vector, standardised by what a checkpoint has fitted."""

    stats_mean: Tensor
    stats_scale: Tensor

    def __init__(self, dim: int, stats: int, hidden: int) -> None:
        super().__init__(dim, stats, hidden)
        self.register_buffer("stats_mean", torch.zeros(stats))
        self.register_buffer("stats_scale", torch.ones(stats))

    def forward(self, vectors: Tensor, extra: Tensor, added: Tensor | None = None) -> Tensor:
        """As an adapter's."""
        return super().forward(vectors, (extra - self.stats_mean) / self.stats_scale, added)


class ModalityAdapters(nn.Module):
    """One modality: its event tokens, its summary token, and what it means that others, or a query, match it.

    matched: (dim,), enters other modalities' summary tokens by the cosine of their newest events and this one's mean.
    asked: (hidden,), enters a scenario's <USER_EMB> by the cosine of its query and this one's mean. A vector of each
    modality, not of each pair, so that one more leaves all parameters as they are.
    """

    number_mean: Tensor
    number_scale: Tensor

    def __init__(self, dim: int, numbers: int, stats: int, hidden: int) -> None:
        super().__init__()
        self.event = Adapter(dim, 2 * numbers, hidden)
        self.summary = SummaryAdapter(dim, stats, hidden)
        self.matched = nn.Parameter(torch.empty(dim))
        self.asked = nn.Parameter(torch.empty(hidden))
        self.register_buffer("number_mean", torch.full((numbers,), NUMBER_MEAN))
        self.register_buffer("number_scale", torch.full((numbers,), NUMBER_SCALE))

    def events(self, vectors: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """vectors (n, dim), values and present (n, numbers) as in `features.Numbers` → (n, hidden)."""
        standard = (values - self.number_mean) / self.number_scale * present
        return cast(Tensor, self.event(vectors, torch.cat([standard, present], -1)))


class UserModel(nn.Module):
    """All parameters of one user-embedding model.

    tokens: text → token ids. trained: set by the checkpoint.
    """

    embedding: Tensor

    def __init__(
        self, pretrained: Pretrained, modalities: Mapping[str, ModalitySettings], *, dim: int, seed: int
    ) -> None:
        super().__init__()
        self.lm = pretrained.lm
        self.backbone = Backbone(pretrained.lm)
        self.tokenize = pretrained.tokenize
        self.seed = seed
        hidden, width = self.backbone.hidden, pretrained.embedding.shape[1]
        self.register_buffer("embedding", pretrained.embedding, persistent=False)
        self.project = nn.Linear(width, hidden, bias=False) if pretrained.seeded else nn.Identity()
        self.modality = nn.ModuleDict(
            {
                name: ModalityAdapters(dim, m.number_width, len(statistics.modality_names(m)), hidden)
                for name, m in modalities.items()
            }
        )
        self.user = SummaryAdapter(dim, len(ACTIVITY), hidden)
        self.user_emb = nn.Parameter(torch.empty(hidden))
        self.prompts = nn.ParameterDict()
        self.head = nn.Sequential(nn.Linear(hidden, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, DIM))
        initialise(self, seed, skip=() if pretrained.seeded else ("lm.",))
        # Tokens of our own enter the residual stream at the size of the model's own token embeddings.
        scale = 1.0 if pretrained.seeded else float(pretrained.embedding.std())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "user_emb" or ".outer." in name or name.endswith(".asked"):
                    parameter.mul_(scale)
                elif name.endswith(".matched"):  # beside the columns of `inner`, and of their size
                    parameter.mul_(dim**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model; adapters and head stay float32."""
        return cast(torch.dtype, self.lm.norm.weight.dtype)

    def adapters(self, modality: str) -> ModalityAdapters:
        """Adapters of a modality."""
        return cast(ModalityAdapters, self.modality[modality])

    @property
    def matched(self) -> Tensor:
        """(modalities, dim), see `ModalityAdapters`."""
        return torch.stack([self.adapters(name).matched for name in self.modality])

    @property
    def asked(self) -> Tensor:
        """(modalities, hidden), see `ModalityAdapters`."""
        return torch.stack([self.adapters(name).asked for name in self.modality])

    def text_tokens(self, ids: Sequence[int]) -> Tensor:
        """Token embeddings of text: (len(ids), hidden)."""
        index = torch.tensor(ids, dtype=torch.long, device=self.embedding.device)
        return cast(Tensor, self.project(self.embedding[index].float()))

    def embed(self, states: Tensor) -> Tensor:
        """Head shared by both towers: states (…, hidden) → unit vectors (…, 128), float32."""
        return nn.functional.normalize(cast(Tensor, self.head(states.float())), dim=-1)


def initialise(module: nn.Module, seed: int, *, skip: tuple[str, ...] = ()) -> None:
    """Fill parameters from (seed, parameter name): matrices normal with variance 1 / inputs, norms 1, biases 0.

    Args:
        skip: prefixes of parameter names left alone.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(skip):
                continue
            if parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=generator(seed, name))
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif name.endswith("norm.weight") or "layernorm" in name:
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, name)))


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on the seed and the name only."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
