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
from encoder.model.features import STATS, STATS_PER_NUMBER, number_count
from encoder.model.presets import Pretrained
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

    def forward(self, vectors: Tensor, extra: Tensor) -> Tensor:
        """vectors (n, dim), extra (n, extra) → (n, hidden)."""
        joined = torch.cat([self.norm(vectors), extra], -1)
        return cast(Tensor, self.outer(nn.functional.gelu(self.inner(joined))))


class ModalityAdapters(nn.Module):
    """One modality: its event tokens and its summary token."""

    number_mean: Tensor
    number_scale: Tensor

    def __init__(self, dim: int, numbers: int, hidden: int) -> None:
        super().__init__()
        self.event = Adapter(dim, 2 * numbers, hidden)
        self.summary = Adapter(dim, STATS + STATS_PER_NUMBER * numbers, hidden)
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
            {name: ModalityAdapters(dim, number_count(m), hidden) for name, m in modalities.items()}
        )
        self.user = Adapter(dim, STATS, hidden)
        self.user_emb = nn.Parameter(torch.empty(hidden))
        self.prompts = nn.ParameterDict()
        self.head = nn.Sequential(nn.Linear(hidden, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, DIM))
        initialise(self, seed, skip=() if pretrained.seeded else ("lm.",))
        # Tokens of our own enter the residual stream at the size of the model's own token embeddings.
        scale = 1.0 if pretrained.seeded else float(pretrained.embedding.std())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "user_emb" or ".outer." in name or name.startswith("user.outer"):
                    parameter.mul_(scale)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model; adapters and head stay float32."""
        return cast(torch.dtype, self.lm.norm.weight.dtype)

    def adapters(self, modality: str) -> ModalityAdapters:
        """Adapters of a modality."""
        return cast(ModalityAdapters, self.modality[modality])

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
