"""Our forward over a transformers Llama or Qwen2: flat tokens, positions as given, attention as handed in.

Linear layers and norms see one flat batch of tokens of all chunks and tails of many users, without padding; only
attention knows which token sees which. Agreement with the plain transformers forward is tested.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout, rms_norm, silu


class Attention(Protocol):
    """Who sees whom, and where keys and values of cached tokens are."""

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every token. q: (n, heads, d); k, v: (n, kv_heads, d) → (n, heads, d)."""

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the output tokens only. q: (outputs, heads, d); k, v of all tokens → (outputs, heads, d)."""


class Backbone:
    """The layers of a transformers LlamaModel or Qwen2Model (or what LoRA made of them)."""

    def __init__(self, lm: Any) -> None:
        config = lm.config
        self.lm = lm
        self.layers: int = config.num_hidden_layers
        self.hidden: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden // self.heads
        rope = config.rope_parameters
        if (
            rope["rope_type"] == "default"
        ):  # in float64: hours since the epoch reach 1e5, float32 angles would be coarse
            exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
            self._inv_freq = rope["rope_theta"] ** -exponent
        else:
            self._inv_freq = lm.rotary_emb.inv_freq.detach().double().cpu()
        self._rope_scale = float(lm.rotary_emb.attention_scaling)
        self.dropout = 0.0
        """In training, of what attention and MLP add."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the layers."""
        return cast(torch.dtype, self.lm.norm.weight.dtype)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: float64 (n,) → cos, sin: float32 (n, 1, head_dim / 2); angles are computed in float64."""
        cos, sin = self.turn(positions)
        return cos * self._rope_scale, sin * self._rope_scale

    def turn(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """As `rotary`, for queries or keys that are rotated already and shall stand so much later: float64 (n,)."""
        angles = (distances[:, None] * self._inv_freq.to(distances.device))[:, None]
        return angles.cos().float(), angles.sin().float()

    def run(self, x: Tensor, positions: Tensor, attention: Attention, outputs: Tensor | None = None) -> Tensor:
        """Final states, normed.

        Args:
            x: token embeddings (n, hidden). positions: float64 (n,).
            outputs: int64 indices of the tokens wanted; None = all. Others are spared what only they would need
                of the last layer.

        Returns:
            (n or len(outputs), hidden).
        """
        cos, sin = self.rotary(positions)
        layers = self.lm.layers[: self.layers]
        for i, layer in enumerate(layers):
            normed = norm(layer.input_layernorm, x)
            heads = layer.self_attn
            k = rotate(heads.k_proj(normed).unflatten(-1, (self.kv_heads, self.head_dim)), cos, sin)
            v = heads.v_proj(normed).unflatten(-1, (self.kv_heads, self.head_dim))
            if outputs is not None and i == self.layers - 1:
                x, normed = x[outputs], normed[outputs]
                q = rotate(heads.q_proj(normed).unflatten(-1, (self.heads, self.head_dim)), cos[outputs], sin[outputs])
                seen = attention.outputs(i, q, k, v)
            else:
                q = rotate(heads.q_proj(normed).unflatten(-1, (self.heads, self.head_dim)), cos, sin)
                seen = attention.all(i, q, k, v)
            x = x + self._dropped(heads.o_proj(seen.flatten(-2)))
            x = x + self._dropped(mlp(layer.mlp, norm(layer.post_attention_layernorm, x)))
        return norm(self.lm.norm, x)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.dropout and self.lm.training else x


def norm(module: Any, x: Tensor) -> Tensor:
    """A Llama or Qwen2 norm of x as one kernel."""
    return rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def mlp(module: Any, x: Tensor) -> Tensor:
    """A Llama or Qwen2 MLP. Without gradients in place: fresh memory costs a CPU more than the arithmetic on it."""
    if torch.is_grad_enabled() or module.config.hidden_act != "silu":
        return cast(Tensor, module(x))
    return cast(Tensor, module.down_proj(silu(module.gate_proj(x), inplace=True).mul_(module.up_proj(x))))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (n, heads, head_dim) in float32, returned in x's dtype. Pairs are half a head apart."""
    first, second = x.float().chunk(2, -1)
    turned = [(first * cos).addcmul(second, sin, value=-1), (second * cos).addcmul(first, sin)]
    return torch.cat(turned, -1).to(x.dtype)
