"""Semantic tower: an answer, then <USER_EMB> that is told its text vector, through the same language model and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from encoder.model.user_model import UserModel

MAX_ANSWER_TOKENS = 200


class _DenseCausal:
    """`backbone.Attention` of texts of one length, each causal and alone."""

    def __init__(self, texts: int) -> None:
        self._texts = texts

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.reshape(self._texts, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        return attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1)

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The output is each text's last token, which sees all of it."""
        q, k, v = (t.reshape(self._texts, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        return attend(q, k, v, enable_gqa=True).transpose(1, 2).flatten(0, 1)


def embed_texts(model: UserModel, texts: Sequence[str]) -> Tensor:
    """Unit vectors (texts, 128). Empty texts raise ValueError; texts beyond 200 tokens are cut."""
    by_length: dict[int, list[int]] = {}
    encoded = [model.tokenize(text)[:MAX_ANSWER_TOKENS] for text in texts]
    for row, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"text {row} has no tokens: an answer needs at least one")
        by_length.setdefault(len(ids), []).append(row)
    ends = [model.readout(torch.from_numpy(model.vectors(text)).to(model.embedding.device))[None] for text in texts]
    states: dict[int, Tensor] = {}
    for length, rows in by_length.items():
        x = torch.cat([t for row in rows for t in (model.text_tokens(encoded[row]), ends[row])]).to(model.dtype)
        length += 1
        positions = torch.arange(length, dtype=torch.float64, device=x.device).repeat(len(rows))
        last = torch.arange(1, len(rows) + 1, device=x.device) * length - 1
        out = model.backbone.run(x, positions, _DenseCausal(len(rows)), last)
        states.update(zip(rows, out, strict=True))
    return model.embed(torch.stack([states[row] for row in range(len(texts))]))
