"""What users' tokens tell an anchor that comes after them: keys and values, computed once, read as often as it changes.

No event or summary token sees a scenario, so what a soft prompt changes is the anchor's own tokens alone: a step of
tuning runs these, over keys and values that are kept in half precision. Each layout's vectors are those it serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from encoder.forward import tail as tails
from encoder.forward.attention import grouped
from encoder.forward.forward import segment_tokens, summary_tokens, user_states
from encoder.forward.plan import additive
from encoder.forward.tail import MAX_QUERY_TOKENS, Tail
from encoder.forward.user_tokens import UserTokens, prepare_all
from encoder.model.backbone import Backbone, rotate
from encoder.model.settings import ModelSettings
from encoder.model.user_model import UserModel
from store.base.settings import ModalitySettings
from store.window.user_window import UserWindow

_BATCH_TOKENS = 1024
"""Of one forward; at least one user."""
_BATCH_ROWS = 256


class _User(NamedTuple):
    """keys, values: (layers, tokens, kv_heads, head_dim), half. now: position of the tail's first token. means:
    (modalities, dim), of the summary tokens. token: (hidden,), the user token."""

    keys: Tensor
    values: Tensor
    now: float
    means: Tensor
    token: Tensor


class UserStates:
    """Users at moments, for one query and any prompt. The model's parameters are read, never changed.

    bytes: of what is kept.
    """

    def __init__(
        self, model: UserModel, modalities: Mapping[str, ModalitySettings], settings: ModelSettings, query: str
    ) -> None:
        """settings: the model's layout, time zone, and whether it has event tokens."""
        self.model = model
        self.bytes = 0
        self._modalities, self._settings, self._query = modalities, settings, query
        self._users: list[_User] = []
        with torch.no_grad():
            self._plain = self.tail(None)

    def __len__(self) -> int:
        return len(self._users)

    @property
    def token_scale(self) -> float:
        """Standard deviation of the query's token embeddings: the size of what the model reads as text."""
        with torch.no_grad():
            return float(self.model.text_tokens(self.model.tokenize(self._query)).std())

    def tail(self, prompt: Tensor | None) -> Tail:
        """[prompt][query][<USER_EMB>]; differentiable in the prompt, (tokens, hidden)."""
        model = self.model
        ids = model.tokenize(self._query)[:MAX_QUERY_TOKENS]
        vector = torch.from_numpy(model.vectors(self._query)).to(model.embedding.device)
        own = [] if prompt is None else [prompt]
        segment = torch.cat([*own, model.text_tokens(ids), model.readout(vector)[None]])
        lead = 0 if self._settings.layout == "causal" else len(model.modalities) + 1
        if self._settings.layout == "compiled":
            return tails.build_compiled(model.backbone, [segment], lead, [vector])
        return tails.build([segment], lead, [vector])

    @torch.no_grad()
    def add(self, windows: Sequence[UserWindow]) -> NDArray[np.float32]:
        """Keep users, in order; their vectors without a prompt, (users, 128)."""
        model = self.model
        users = prepare_all(windows, self._modalities, model.adapters.dim, self._settings.time_zone)
        if not self._settings.event_tokens:
            users = [user.without_events() for user in users]
        out = np.empty((len(users), 128), np.float32)
        kept: dict[int, _User] = {}
        for rows in _batches(users, self._plain.length):
            seen = _Kept()
            found = user_states(model, [users[row] for row in rows], None, self._plain, None, seen)
            out[rows] = model.embed(found.states).cpu().numpy()
            new, plan = found.plan.new_tokens, found.plan
            summaries = np.arange(self._plain.lead)
            means = torch.from_numpy(np.stack([users[row].means for row in rows])).to(model.user_emb.device)
            own = summary_tokens(model, [users[row] for row in rows], means)[:, -1].cpu()
            for u, row in enumerate(rows):
                places = torch.from_numpy(np.concatenate([plan.prefixes[u], new + u * plan.tail + summaries]))
                keys, values = (
                    torch.stack([layer[places.to(layer.device)] for layer in side]).half()
                    for side in (seen.keys, seen.values)
                )
                kept[row] = _User(keys, values, float(plan.now[u]), means[u, :-1].cpu().clone(), own[u].clone())
                self.bytes += 2 * keys.nbytes + kept[row].means.nbytes + kept[row].token.nbytes
        self._users += [kept[row] for row in range(len(users))]
        return out

    def read(self, rows: NDArray[np.intp], tail: Tail) -> Tensor:
        """Vectors of these users, (rows, 128), in the graph of the tail."""
        model, backbone = self.model, self.model.backbone
        users = [self._users[row] for row in rows.tolist()]
        device = tail.tokens.device
        now = torch.tensor([user.now for user in users], dtype=torch.float64, device=device)
        means = torch.stack([user.means for user in users]).to(device)
        tokens = torch.stack([user.token for user in users]).to(device)
        x = segment_tokens(model, means, tokens, tail).to(model.dtype)
        length = tail.length - tail.lead
        positions = (now[:, None] + tail.offsets[tail.lead :]).flatten()
        outputs = torch.arange(len(users), device=device) * length + (tail.outputs - tail.lead)
        return model.embed(backbone.run(x, positions, _Over(users, now, tail, backbone), outputs))

    @torch.no_grad()
    def vectors(self, prompt: Tensor | None) -> NDArray[np.float32]:
        """Of everybody, (users, 128)."""
        tail = self._plain if prompt is None else self.tail(prompt)
        rows = np.arange(len(self))
        parts = [self.read(rows[at : at + _BATCH_ROWS], tail).cpu().numpy() for at in range(0, len(rows), _BATCH_ROWS)]
        found: NDArray[np.float32] = np.concatenate(parts)
        return found


class _Kept:
    """`KeysValues` of one forward, remembered by layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors given."""
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


class _Over:
    """`backbone.Attention` of a scenario's tokens over what is kept of users. Differentiable."""

    def __init__(self, users: Sequence[_User], now: Tensor, tail: Tail, backbone: Backbone) -> None:
        self._users = len(users)
        device, dtype = tail.tokens.device, backbone.dtype
        self._keys, self._values = (
            pad_sequence([part.transpose(0, 1) for part in side], batch_first=True).to(device, dtype)
            for side in ([user.keys for user in users], [user.values for user in users])
        )  # (users, tokens, layers, kv_heads, head_dim)
        lengths = torch.tensor([user.keys.shape[1] for user in users], device=device)
        seen = torch.arange(self._keys.shape[1], device=device) < lengths[:, None]
        lead = tail.lead
        own = tail.allowed[lead:, lead:]
        self._compiled = tail.compiled
        if tail.compiled is not None:  # an anchor stands where its reader does
            self._turn = tuple(t[:, None] for t in backbone.turn(now))
            own = torch.cat([own, tail.anchored[lead:]], 1)
        both = (self._users, *own.shape[:1])
        allowed = torch.cat([seen[:, None].expand(*both, -1), own.expand(*both, -1)], 2)
        self._mask = additive(allowed, dtype)[:, None]
        self._output_mask = self._mask[:, :, tail.outputs - lead]

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.all`."""
        return self._read(layer, q, k, v, self._mask)

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.outputs`."""
        return self._read(layer, q, k, v, self._output_mask)

    def _read(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.reshape(self._users, -1, *t.shape[1:]) for t in (q, k, v))
        keys, values = [self._keys[:, :, layer], k], [self._values[:, :, layer], v]
        if self._compiled is not None:
            keys.append(rotate(self._compiled.keys[layer].flatten(0, 1), *self._turn))
            own = self._compiled.values[layer].flatten(0, 1)
            values.append(own.expand(self._users, *own.shape))
        return grouped(q, torch.cat(keys, 1), torch.cat(values, 1), mask).flatten(0, 1)


def _batches(users: Sequence[UserTokens], tail: int) -> list[list[int]]:
    """Rows of users of about equal length, together up to a number of tokens."""
    out: list[list[int]] = []
    tokens = _BATCH_TOKENS
    for row in sorted(range(len(users)), key=lambda row: users[row].rows):
        own = users[row].rows + tail
        if tokens + own > _BATCH_TOKENS:
            out.append([])
            tokens = 0
        out[-1].append(row)
        tokens += own
    return out
