"""The parts around the language model: adapters, summary tokens, soft prompts, the user anchor, the shared head.

Every parameter is created from a seed and its own name, so adding a modality or a prompt leaves all others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from encoder.model.adapters import Adapters, Names, Vectors, number_names
from encoder.model.backbone import Backbone
from encoder.model.presets import Pretrained
from store.base.settings import ModalitySettings
from store.records.embedding import DIM

HEAD_WIDTH = 512


class UserModel(nn.Module):
    """All parameters of one user-embedding model. tokenize: text → token ids. vectors: text → unit vector (dim,).

    numbers: names of each modality's numbers, in the model's order.
    """

    embedding: Tensor

    def __init__(
        self,
        pretrained: Pretrained,
        modalities: Mapping[str, ModalitySettings],
        *,
        dim: int,
        seed: int,
        vectors: Vectors,
    ) -> None:
        super().__init__()
        self.vectors = vectors
        self.numbers = {name: number_names(settings) for name, settings in modalities.items()}
        self.lm = pretrained.lm
        self.backbone = Backbone(pretrained.lm)
        self.tokenize = pretrained.tokenize
        self.seed = seed
        hidden, width = self.backbone.hidden, pretrained.embedding.shape[1]
        self.register_buffer("embedding", pretrained.embedding, persistent=False)
        self.project = nn.Linear(width, hidden, bias=False) if pretrained.seeded else nn.Identity()
        self.adapters = Adapters(modalities, Names.of(modalities, vectors, dim), dim, hidden)
        self.user_emb = nn.Parameter(torch.empty(hidden))
        self.prompts = nn.ParameterDict()
        self.head = nn.Sequential(nn.Linear(hidden, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, DIM))
        initialise(self, seed, skip=() if pretrained.seeded else ("lm.",))
        # Tokens of our own enter the residual stream at the size of the model's own token embeddings.
        scale = 1.0 if pretrained.seeded else float(pretrained.embedding.std())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "user_emb" or name.endswith((".outer.weight", ".ask.weight", ".asked_of.weight")):
                    parameter.mul_(scale)
        for name in modalities:
            self.adapters.residuals(name).clear()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model; adapters and head stay float32."""
        return cast(torch.dtype, self.lm.norm.weight.dtype)

    @property
    def modalities(self) -> list[str]:
        """Names, in the model's order."""
        return list(self.numbers)

    def readout(self, query: Tensor) -> Tensor:
        """<USER_EMB> of a query, (hidden,): the token is told the query's text vector, (dim,), of unit length."""
        return self.user_emb + self.adapters.readout(query)

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
