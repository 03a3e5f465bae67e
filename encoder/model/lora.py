"""Low-rank updates of frozen linear layers: W + (alpha / rank) B A, trained beside W and merged for inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoder.model.user_model import generator

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update, zero at the start."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, seed: int, name: str) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        noise = torch.randn(rank, base.in_features, generator=generator(seed, f"{name}.lora_a"))
        self.lora_a = nn.Parameter((noise / base.in_features**0.5).to(base.weight))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(nn.functional.linear(self.dropout(x), self.lora_a), self.lora_b)
        return cast(Tensor, self.base(x)) + self.scale * low


def attach(lm: Any, *, rank: int = 64, alpha: float = 32.0, dropout: float = 0.1, seed: int = 0) -> list[nn.Parameter]:
    """Replace the attention and MLP projections of every layer by LoRA layers; returns the new parameters.

    Defaults are the paper's (public code of Query-as-Anchor).
    """
    added: list[nn.Parameter] = []
    for name, module in list(lm.layers.named_modules()):
        for child, layer in list(module.named_children()):
            if child in TARGETS and isinstance(layer, nn.Linear):
                lora = LoraLinear(layer, rank, alpha, dropout, seed, f"{name}.{child}")
                setattr(module, child, lora)
                added += [lora.lora_a, lora.lora_b]
    return added


def state(lm: Any) -> dict[str, Tensor]:
    """Updates to save, by the name of the weight they change: `<weight>.lora_a`, `.lora_b`, with the scale in b."""
    out: dict[str, Tensor] = {}
    for name, module in lm.named_modules():
        if isinstance(module, LoraLinear):
            out[f"{name}.lora_a"] = module.lora_a.detach()
            out[f"{name}.lora_b"] = module.lora_b.detach() * module.scale
    return out


@torch.no_grad()
def merge(lm: Any, updates: Mapping[str, Tensor]) -> None:
    """Add saved updates to the plain weights they belong to. Raises KeyError when a layer does not exist."""
    for name in bases(updates):
        weight = lm.get_submodule(name).weight
        weight += (updates[f"{name}.lora_b"].float() @ updates[f"{name}.lora_a"].float()).to(weight)


def bases(names: Iterable[str]) -> list[str]:
    """Layers that updates belong to."""
    return sorted({name.rsplit(".", 1)[0] for name in names})
