"""Embeddings of users: one forward for new event tokens and tails of many users and all their scenarios.

encode() reuses pages of chunks it has seen; encode_from_scratch() computes everything. Both give the same answer, in
whatever batch, because a chunk's keys depend on its rows alone and every user's tail sees its own chunks only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.forward import chunks
from encoder.forward import tail as tails
from encoder.forward.compiled import Compiled, compile_segments, join
from encoder.forward.forward import user_states
from encoder.forward.kv_pool import KvPool, Lease
from encoder.forward.tail import MAX_QUERY_TOKENS, Tail
from encoder.forward.user_tokens import UserTokens, prepare_all
from encoder.model import features, presets
from encoder.model.allocator import keep_freed_memory
from encoder.model.answer_tower import embed_texts
from encoder.model.checkpoint import Card, load_into
from encoder.model.query_vectors import QueryVectors
from encoder.model.settings import Layout, ModelSettings
from encoder.model.user_model import UserModel
from store.base import logs
from store.base.errors import NotFoundError, WeightsError
from store.base.settings import ModalitySettings, ScenarioSettings
from store.records.embedding import DIM
from store.window.user_window import UserWindow

log = logs.get(__name__)

VERSION = 2
"""Part of the model id: raised when the forward gives other embeddings from the same weights."""

CPU_BATCH_TOKENS = 1024
"""Beyond this a forward on the CPU gains nothing and its activations leave the caches."""

MAX_TAILS = 16
"""Cached: of ten scenarios compiled by `smollm2-135m` one has 9 MB."""

PREPARED_TOGETHER = 16
"""Users whose statistics are computed in one go: beyond it their rows leave the caches."""


@dataclass(frozen=True)
class Anchor:
    """A scenario as the model sees it. tokens: (n, hidden), [soft prompt][query][<USER_EMB>]. id: model id.

    query: (dim,), unit text vector of the query. compiled: all tokens but the last, in the layout `compiled`.
    """

    tokens: Tensor
    id: str
    query: Tensor
    compiled: Compiled | None = None


class Work(NamedTuple):
    """What the last encode() computed. tokens: event and tail tokens. forwards: how many."""

    tokens: int
    new_tokens: int
    forwards: int


class UserEncoder:
    """The user tower of one model, with its KV pages. Single-threaded.

    trained: False while adapters and head are seeded only. card: of the checkpoint, if any. weights: what tells the
    parameters from others'.
    """

    def __init__(
        self,
        settings: ModelSettings,
        modalities: Mapping[str, ModalitySettings],
        scenarios: Mapping[str, ScenarioSettings],
        event_dim: int,
        queries: QueryVectors | None = None,
    ) -> None:
        """Load the model.

        Args:
            modalities: rows of others are ignored. scenarios: may be added and removed later.
            event_dim: of event vectors, `TextEncoder.dim`.
            queries: text vectors of queries; None = of its own.

        Raises:
            WeightsError: weights or checkpoint are missing or do not fit; the action says what to do.
        """
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // 2))
        keep_freed_memory()
        self.device = _device(settings.device)
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "bfloat16" if self.device.type == "cuda" else "float32"
        self._settings = settings
        self._modalities = dict(modalities)
        self._dim = event_dim
        self._query_vectors = queries or QueryVectors()
        pretrained = presets.load(settings)
        self.model = UserModel(
            pretrained, modalities, dim=event_dim, seed=settings.seed, vectors=self._query_vectors.of
        )
        self.card: Card | None = None
        if (checkpoint := settings.checkpoint_directory) is not None:
            self.card = load_into(self.model, checkpoint, weights_id=pretrained.weights_id)
        # every modality has a summary token, and its numbers enter in their order
        inputs = ",".join(f"{name}({' '.join(m.numbers)})" for name, m in sorted(modalities.items()))
        self.weights = f"{pretrained.weights_id}|{self.card.id if self.card else f'seed={settings.seed}'}"
        self._weights = f"{self.weights}|{inputs}"
        self.model.eval().requires_grad_(False).to(self.device)
        self.model.lm.to(getattr(torch, dtype))
        self.pool = self._new_pool()
        self._queries: dict[str, ScenarioSettings] = {}
        self._anchors: dict[str, Anchor] = {}
        self._tails: dict[tuple[str, ...], Tail] = {}
        self.work = Work(0, 0, 0)
        for name, scenario in scenarios.items():
            self.add_scenario(name, scenario)
        log.info(logs.MODEL_LOADED, weights=self._weights, device=str(self.device), dtype=dtype)
        if not self.trained:
            log.warning(logs.MODEL_UNTRAINED, preset=settings.preset)

    def with_layout(self, layout: Layout) -> UserEncoder:
        """The same weights in another layout, with the same scenarios and pages of its own. Weights are shared."""
        other = copy(self)
        other._take_layout(layout)  # noqa: SLF001  it is one of us
        return other

    def _take_layout(self, layout: Layout) -> None:
        self._settings = self._settings.model_copy(update={"layout": layout})
        self.pool = self._new_pool()
        self._tails = {}
        self._queries = dict(self._queries)
        self._anchors = {name: self.anchor(scenario) for name, scenario in self._queries.items()}

    @property
    def trained(self) -> bool:
        """Whether adapters and head come from a trained checkpoint."""
        return self.card is not None and self.card.trained

    @property
    def scenarios(self) -> list[str]:
        """Names of the scenarios that can be asked for."""
        return list(self._anchors)

    def model_id(self, scenario: str) -> str:
        """Short stable id of weights, layout, query and prompt: equal ids mean comparable embeddings."""
        return self._anchor(scenario).id

    def add_scenario(self, name: str, scenario: ScenarioSettings) -> None:
        """Make a scenario available, or replace it. Pages are not touched: they do not depend on scenarios.

        Raises:
            WeightsError: its soft prompt is not in the checkpoint.
        """
        self._anchors[name] = self.anchor(scenario)
        self._queries[name] = scenario
        self._tails = {names: tail for names, tail in self._tails.items() if name not in names}

    def remove_scenario(self, name: str) -> None:
        """Forget a scenario; no effect when it is unknown."""
        self._anchors.pop(name, None)
        self._queries.pop(name, None)
        self._tails = {names: tail for names, tail in self._tails.items() if name not in names}

    def set_prompt(self, name: str, prompt: Tensor) -> None:
        """Load or swap a soft prompt, (tokens, hidden); scenarios that use it must be added again."""
        if prompt.ndim != 2 or prompt.shape[1] != self.model.backbone.hidden:
            raise WeightsError(
                f"soft prompt {name!r} has shape {tuple(prompt.shape)}; the model's tokens have width "
                f"{self.model.backbone.hidden}",
                action="tune the prompt on this model",
                code="weights_unusable",
            )
        self.model.prompts[name] = torch.nn.Parameter(prompt.to(self.device), requires_grad=False)

    def anchor(self, scenario: ScenarioSettings) -> Anchor:
        """Tokens of a query nobody registered; see `encode_anchors`.

        Raises:
            WeightsError: its soft prompt is not in the checkpoint.
        """
        model = self.model
        parts = []
        versions = VERSION, chunks.VERSION, features.VERSION
        events = () if self._settings.event_tokens else ("no event tokens",)
        basis = (self._weights, self._settings.layout, *events, *versions, self._settings.time_zone, scenario.query, "")
        digest = hashlib.blake2b("|".join(map(str, basis)).encode(), digest_size=8)
        if scenario.prompt is not None:
            if scenario.prompt not in model.prompts:
                known = ", ".join(sorted(model.prompts)) or "none"
                raise WeightsError(
                    f"the soft prompt {scenario.prompt!r} is not in the model (it has: {known})",
                    action="set model.checkpoint to one that has it, or remove `prompt` from the scenario",
                    code="prompt_missing",
                )
            parts.append(model.prompts[scenario.prompt])
            digest.update(parts[0].detach().float().cpu().numpy().tobytes())
        ids = model.tokenize(scenario.query)
        if len(ids) > MAX_QUERY_TOKENS:
            log.warning(logs.QUERY_TRUNCATED, tokens=len(ids), kept=MAX_QUERY_TOKENS)
        vector = torch.from_numpy(self._query_vectors.of(scenario.query)).to(self.device)
        parts += [model.text_tokens(ids[:MAX_QUERY_TOKENS]), model.readout(vector)[None]]
        name = self.card.name if self.card else self._settings.preset
        tokens = torch.cat(parts).detach()
        compiled = None
        if self._settings.layout == "compiled":  # alone: its keys do not depend on what is registered beside it
            with torch.no_grad():
                compiled = compile_segments(model.backbone, [tokens[:-1]], self._lead)
        return Anchor(tokens, f"{name}-{digest.hexdigest()}", vector, compiled)

    def encode(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (users, scenarios, 128), unit length, reusing and filling KV pages.

        Raises:
            NotFoundError: a scenario is unknown.
        """
        return self._encode(windows, self.tail(scenarios), self.pool)

    def encode_from_scratch(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        """The same embeddings without any page read or written."""
        return self._encode(windows, self.tail(scenarios), None)

    def encode_anchors(self, windows: Sequence[UserWindow], anchors: Sequence[Anchor]) -> NDArray[np.float32]:
        """Embeddings (users, anchors, 128) for queries that are not registered."""
        return self._encode(windows, self._build(anchors), self.pool)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Semantic tower: answers to (texts, 128), through the same language model and head."""
        return embed_texts(self.model, texts).cpu().numpy()

    def forget(self, user_id: str) -> None:
        """Drop a user's pages."""
        if self.pool is not None:
            self.pool.drop(user_id)

    def tail(self, scenarios: Sequence[str]) -> Tail | None:
        """Tail of these scenarios, cached; None for none.

        Raises:
            NotFoundError: a scenario is unknown.
        """
        names = tuple(scenarios)
        if not names:
            return None
        tail = self._tails.pop(names, None) or self._build([self._anchor(name) for name in names])
        self._tails[names] = tail  # the last used comes last
        if len(self._tails) > MAX_TAILS:
            del self._tails[next(iter(self._tails))]
        return tail

    def tokens_of(self, scenarios: Sequence[str]) -> int:
        """Tokens of a user's tail: the least that a refresh of these scenarios computes."""
        anchors = [self._anchor(name) for name in scenarios]
        return self._lead + sum(len(a.tokens) if a.compiled is None else 1 for a in anchors) if anchors else 0

    def _build(self, anchors: Sequence[Anchor]) -> Tail:
        queries = [a.query for a in anchors]
        compiled = [a.compiled for a in anchors if a.compiled is not None]
        if not compiled:
            return tails.build([a.tokens for a in anchors], self._lead, queries)
        return tails.of_compiled([a.tokens[-1:] for a in anchors], join(compiled), self._lead, queries)

    @property
    def _lead(self) -> int:
        return 0 if self._settings.layout == "causal" else len(self._modalities) + 1

    def _anchor(self, scenario: str) -> Anchor:
        try:
            return self._anchors[scenario]
        except KeyError:
            known = ", ".join(self._anchors) or "none"
            raise NotFoundError(
                f"unknown scenario {scenario!r} (known: {known})", action="register it, or check its name"
            ) from None

    def _new_pool(self) -> KvPool | None:
        backbone = self.model.backbone
        if self._settings.layout == "causal" or not self._settings.event_tokens:
            return None  # any event changes the first token, or none has one: there is nothing to keep
        pool = KvPool(
            layers=backbone.layers,
            kv_heads=backbone.kv_heads,
            head_dim=backbone.head_dim,
            capacity_bytes=self._settings.kv_pool_bytes,
            dtype=self.model.dtype,
            device=self.device,
        )
        return pool if pool.pages else None

    @torch.inference_mode()
    def _encode(self, windows: Sequence[UserWindow], tail: Tail | None, pool: KvPool | None) -> NDArray[np.float32]:
        if tail is None:
            return np.empty((len(windows), 0, DIM), np.float32)
        outputs = len(tail.outputs)
        out = np.empty((len(windows), outputs, DIM), np.float32)
        tokens = new_tokens = forwards = 0
        for batch in self._batches(windows, tail, pool):
            # A forward that fails leaves the pool right: a page claims new tokens only once they are committed.
            states, plan = user_states(self.model, batch.users, batch.leases or None, tail, pool)
            if pool is not None:
                pool.commit(batch.leases)
            tokens, new_tokens, forwards = tokens + plan.tokens, new_tokens + plan.new_tokens, forwards + 1
            out[batch.rows] = self.model.embed(states).view(len(batch.rows), outputs, DIM).cpu().numpy()
        self.work = Work(tokens, new_tokens, forwards)
        return out

    def _batches(self, windows: Sequence[UserWindow], tail: Tail, pool: KvPool | None) -> Iterator[_ForwardBatch]:
        """Batches within the token budget, each all paged or all not. A user comes at most once per paged batch.

        Users of about equal length go together: keys are padded to the longest.
        """
        budget = self._settings.batch_tokens
        if self.device.type == "cpu":
            budget = min(budget, CPU_BATCH_TOKENS)
        lengths = [sum(len(m.ts) for m in window.modalities.values()) for window in windows]
        paged, plain = _ForwardBatch(), _ForwardBatch()
        for row, user in self._prepared(windows, sorted(range(len(windows)), key=lengths.__getitem__)):
            if pool is None or user.chunks > pool.pages:
                if pool is not None:
                    pool.skip(user)
                if plain.users and plain.tokens + user.rows + tail.length > budget:
                    yield plain
                    plain = _ForwardBatch()
                plain.add(row, user, user.rows + tail.length)
                continue
            if (
                user.user_id in paged.ids
                or paged.pages + user.chunks > pool.pages
                or (paged.users and paged.tokens + tail.length > budget)
            ):
                yield paged
                paged = _ForwardBatch()
            lease = pool.acquire(user)
            paged.leases.append(lease)
            paged.add(row, user, lease.new_tokens + tail.length)
        yield from (batch for batch in (paged, plain) if batch.users)

    def _prepared(self, windows: Sequence[UserWindow], order: Sequence[int]) -> Iterator[tuple[int, UserTokens]]:
        """Users in this order, each with its row: some at a time, which costs less than one by one."""
        for start in range(0, len(order), PREPARED_TOGETHER):
            rows = order[start : start + PREPARED_TOGETHER]
            own = [windows[row] for row in rows]
            users = prepare_all(own, self._modalities, self._dim, self._settings.time_zone)
            if not self._settings.event_tokens:
                users = [user.without_events() for user in users]
            yield from zip(rows, users, strict=True)


class _ForwardBatch:
    """Users gathered for one forward. rows: of the result. leases: of the users, empty when they are not paged."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.users: list[UserTokens] = []
        self.leases: list[Lease] = []
        self.ids: set[str] = set()
        self.pages = 0
        self.tokens = 0

    def add(self, row: int, user: UserTokens, tokens: int) -> None:
        self.rows.append(row)
        self.users.append(user)
        self.ids.add(user.user_id)
        self.pages += user.chunks
        self.tokens += tokens


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise WeightsError(
            f"model.device is {name!r}, but torch sees no CUDA device",
            action='set model.device = "auto" or "cpu"',
            code="device_missing",
        )
    return torch.device(name)
