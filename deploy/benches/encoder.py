"""`bench encoder`: an update of one user, done the public code's way, the paper's way, and ours.

Cases, all from the same weights and the same made-up users:
  full           a plain transformers forward of [summaries][events][prompt][query][<USER_EMB>] per (user, scenario)
  prefix_kv      the paper's: the prefix once, every scenario from its keys (all in one forward: faster than one by one)
  cold           ours (layout `compiled`), nothing cached
  hot_N          ours, N new events since the last refresh
  hot_late       ours, one event 45 days late
  hot_3_roll     ours, 3 new events and the 3 oldest gone from a full window
  chunked_hot_3  as hot_3 in the layout `chunked`, whose queries read the user; by turns with it
Users/s is from the fastest of the repetitions: other processes only ever add. All cores are used: nothing else runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.benches.report import BenchResult
from deploy.settings.config import paper_modalities
from encoder.forward.causal import causal
from encoder.forward.forward import embed
from encoder.forward.plan import finish
from encoder.forward.user_encoder import UserEncoder
from encoder.forward.user_tokens import prepare
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from store.window.rows import Summary
from store.window.user_window import ModalityWindow, UserWindow

DIM = 384
DAY_MS = 86_400_000
START_MS = 1_750_000_000_000
PROMPT_TOKENS = 6
"""Soft prompt of every scenario; the paper finds no gain beyond 6."""

SCENARIOS = {
    name: ScenarioSettings(query=query, prompt="bench")
    for name, query in {
        "credit_risk": "Will this user fall behind on a repayment in the next month?",
        "coupon": "Will this user use a coupon in the next month?",
        "churn": "Will this user stop coming in the next month?",
        "spend_drop": "Will this user spend less than half in the next month?",
        "travel": "Is this user planning a trip in the coming weeks?",
        "parent": "Does this user have young children at home?",
        "fraud": "Does the recent behaviour look like an account taken over?",
        "loan": "Is this user interested in a cash loan right now?",
        "insurance": "Would this user buy health insurance this month?",
        "active": "Will this user open the application every day next week?",
    }.items()
}


@dataclass(frozen=True)
class History:
    """Rows of one user over the paper's modalities, in time order: modality index, time, vector, amount."""

    modality: NDArray[np.int64]
    ts: NDArray[np.int64]
    vectors: NDArray[np.float16]
    amounts: NDArray[np.float32]

    def window(self, user_id: str, rows: NDArray[np.int64]) -> UserWindow:
        """The window of these rows, ascending."""
        out = {}
        for index, (name, settings) in enumerate(paper_modalities().items()):
            own = rows[self.modality[rows] == index]
            if len(own):
                k = len(settings.numbers) if settings.kind == "events" else 1
                total = self.vectors[own].sum(0, dtype=np.float32)
                summary = Summary(len(own), int(self.ts[own[0]]), int(self.ts[own[-1]]), total, (), (), {}, 0)
                names = [f"{name}-{row}" for row in own.tolist()]
                numbers = np.repeat(self.amounts[own, None], k, 1)
                out[name] = ModalityWindow(summary, self.ts[own], names, numbers, self.vectors[own])
        return UserWindow(user_id, out)


def history(seed: int, events: int) -> History:
    """`events` rows over 90 days, spread over the modalities as the paper's caps are."""
    rng = np.random.default_rng(seed)
    caps = np.array([m.max_events for m in paper_modalities().values()], float)
    vectors = rng.standard_normal((events, DIM)).astype(np.float32)
    vectors = np.round(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * 2**14) / 2**14
    return History(
        rng.choice(len(caps), events, p=caps / caps.sum()),
        START_MS + np.sort(rng.integers(0, 90 * DAY_MS, events)),
        vectors.astype(np.float16),
        rng.lognormal(3, 1, events).astype(np.float32),
    )


class Timing(NamedTuple):
    """seconds, cpu: of the fastest repetition, and the least of the process's time in one. tokens: computed in one.

    peak_mb: device memory, on the CPU the process's.
    """

    seconds: float
    cpu: float
    tokens: int
    peak_mb: float | None


Calls = Sequence[Callable[[], int]]


def measure(calls: Calls, device: torch.device) -> Timing:
    """Run each call once, in order; a call returns the tokens it computed."""
    return measure_by_turns([calls], device)[0]


def measure_by_turns(competitors: Sequence[Calls], device: torch.device) -> list[Timing]:
    """The first call of each, then the second of each: what else the machine does meets all of them."""
    found: list[list[tuple[float, float, int]]] = [[] for _ in competitors]
    _reset_peak(device)
    for turn in zip(*competitors, strict=True):
        for call, own in zip(turn, found, strict=True):
            _synchronise(device)
            start, cpu = time.perf_counter(), time.process_time()
            tokens = call()
            _synchronise(device)
            own.append((time.perf_counter() - start, time.process_time() - cpu, tokens))
    return [Timing(min(o[0] for o in own), min(o[1] for o in own), own[-1][2], _peak_mb(device)) for own in found]


def run(*, brief: bool, presets: Sequence[str] = ("tiny", "smollm2-135m")) -> BenchResult:
    """Measure the presets; ratios are those of smollm2-135m (or the only preset) at 700 events, 10 scenarios."""
    rows: list[dict[str, Any]] = []
    for preset in presets:
        encoder = UserEncoder(
            ModelSettings(
                preset=preset,  # type: ignore[arg-type]
                layout="compiled",
                kv_pool_bytes=1 << 30,
                threads=os.cpu_count() or 1,
            ),
            paper_modalities(),
            {},
            DIM,
        )
        hidden = encoder.model.backbone.hidden
        encoder.set_prompt("bench", torch.randn(PROMPT_TOKENS, hidden, generator=torch.Generator().manual_seed(0)))
        for name, scenario in SCENARIOS.items():
            encoder.add_scenario(name, scenario)
        big = preset != "tiny"
        lengths = (700,) if brief and big else (50, 200, 700)
        counts = (10,) if brief and big else (1, 10)
        for events in lengths:
            for scenarios in counts:
                rows += _cases(encoder, preset, events, list(SCENARIOS)[:scenarios], brief=brief)
    return BenchResult(rows, _ratios(rows))


def _cases(
    encoder: UserEncoder, preset: str, events: int, scenarios: list[str], *, brief: bool
) -> list[dict[str, Any]]:
    cuda, big = encoder.device.type == "cuda", preset != "tiny"
    users = (64 if big else 256) if cuda else (2 if big else 16)
    repetitions = (2 if big else 3) if brief else (3 if big else 7)
    spare = 16 * (repetitions + 1)
    histories = [history(seed, events + spare) for seed in range(users)]
    base = np.arange(spare, spare + events)

    def windows(rows: NDArray[np.int64]) -> list[UserWindow]:
        return [h.window(f"user-{i}", rows) for i, h in enumerate(histories)]

    def encode(batch: list[UserWindow], by: UserEncoder = encoder, *, cold: bool = False) -> Callable[[], int]:
        def call() -> int:
            if cold:
                for window in batch:
                    by.forget(window.user_id)
            by.encode(batch, scenarios)
            return by.work.tokens

        return call

    def hot(changes: Callable[[int], NDArray[np.int64]], *others: UserEncoder) -> list[Timing]:
        """changes(i): rows after i updates. The first update warms up. By turns with others."""
        batches = [windows(changes(i)) for i in range(repetitions + 1)]
        competitors = [[encode(batch, by) for batch in batches] for by in (encoder, *others)]
        for calls in competitors:
            calls[0]()
            calls[1]()
        return measure_by_turns([calls[2:] for calls in competitors], encoder.device)

    def late(i: int) -> NDArray[np.int64]:
        middle = spare + events // 2
        missing = [middle + j for j in range(i, repetitions + 1)]
        return np.setdiff1d(base, missing)

    paper, chunked = encoder.with_layout("causal"), encoder.with_layout("chunked")
    everyone = windows(base)

    def prefix_kv() -> int:
        paper.encode(everyone, scenarios)
        return paper.work.tokens

    full_users = everyone[:1] if big and not cuda else everyone[:4]
    full = measure([_full(paper, full_users, scenarios)], encoder.device)
    prefix, cold = (measure([call] * repetitions, encoder.device) for call in (prefix_kv, encode(everyone, cold=True)))
    hot_3, chunked_hot_3 = hot(lambda i: np.arange(spare, spare + events + 3 * (i - repetitions)), chunked)
    found: dict[str, tuple[int, Timing]] = {
        "full": (len(full_users), full),
        "prefix_kv": (users, prefix),
        "cold": (users, cold),
        "hot_1": (users, hot(lambda i: np.arange(spare, spare + events + i - repetitions))[0]),
        "hot_3": (users, hot_3),
        "hot_16": (users, hot(lambda i: np.arange(spare, spare + events + 16 * (i - repetitions)))[0]),
        "hot_late": (users, hot(late)[0]),
        "hot_3_roll": (users, hot(lambda i: np.arange(3 * i, 3 * i + events))[0]),
        "chunked_hot_3": (users, chunked_hot_3),
    }
    parameters = sum(p.numel() for name, p in encoder.model.lm.named_parameters() if "proj" in name)
    return [
        {
            "preset": preset,
            "device": str(encoder.device),
            "threads": torch.get_num_threads(),
            "events": events,
            "scenarios": len(scenarios),
            "case": case,
            "users_per_second": count / timing.seconds,
            "cpu_ms_per_user": 1e3 * timing.cpu / count,
            "tokens_per_user": timing.tokens / count,
            "gflop_per_user": 2 * parameters * timing.tokens / count / 1e9,
            "tflop_per_second": 2 * parameters * timing.tokens / timing.seconds / 1e12,
            "peak_mb": timing.peak_mb,
        }
        for case, (count, timing) in found.items()
    ]


def _full(paper: UserEncoder, users: list[UserWindow], scenarios: list[str]) -> Callable[[], int]:
    """One plain forward per (user, scenario), from rows to embedding."""
    model, device = paper.model, paper.device

    @torch.inference_mode()
    def call() -> int:
        tokens = 0
        for window in users:
            for name in scenarios:
                tail = paper.tail([name])
                assert tail is not None
                user = [prepare(window, paper_modalities(), DIM)]
                layout = causal(user, tail, len(model.modalities))
                plan = finish(layout, tail, fold=1, dtype=model.dtype, device=device)
                x = embed(model, user, plan, tail)
                states = model.lm(inputs_embeds=x[None]).last_hidden_state[0, -1]
                model.embed(states).cpu()
                tokens += len(x)
        return tokens

    return call


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    presets = [row["preset"] for row in rows]
    preset = "smollm2-135m" if "smollm2-135m" in presets else presets[0]
    speed = {
        row["case"]: row["users_per_second"]
        for row in rows
        if (row["preset"], row["events"], row["scenarios"]) == (preset, 700, 10)
    }
    return {
        "hot_vs_full": speed["hot_3"] / speed["full"],
        "hot_vs_prefix_kv": speed["hot_3"] / speed["prefix_kv"],
        "cold_vs_prefix_kv": speed["cold"] / speed["prefix_kv"],
        "hot_vs_chunked": speed["hot_3"] / speed["chunked_hot_3"],
    }


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")  # Linux: the peak resident size starts again from now


def _peak_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
    return float(lines["VmHWM"].split()[0]) / 1e3
