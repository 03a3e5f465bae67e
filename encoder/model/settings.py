"""Settings of the model and the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from store.base.settings import Section
from store.base.silence_days import check_days

SHIPPED = Path(__file__).with_name("shipped")
"""A checkpoint in a folder of the name of each preset that has one."""

Layout = Literal["compiled", "chunked", "causal"]


class ModelSettings(Section):
    """Which language model, where, and how much memory its KV pages may take."""

    preset: Literal["tiny", "smollm2-135m", "qwen2.5-0.5b"] = "tiny"
    """`tiny`: a few million parameters, for CPUs. `qwen2.5-0.5b` (the paper's) needs `path`."""
    path: Path | None = None
    """Directory of a Llama- or Qwen-type causal LM; overrides the preset's own weights."""
    checkpoint: Literal["shipped", "none"] | Path = "shipped"
    """Adapters, head and soft prompts (safetensors + card). `shipped`: what comes with the preset, if anything does
    (only `tiny` has one); `none`: seeded, untrained."""
    prompts_dir: Path | None = None
    """Soft prompts beside the checkpoint's, `<name>.safetensors`, as `anchorstream tune` writes them. Read when a
    scenario names one that the checkpoint lacks, and again when the scenario is registered again. None = `prompts`
    under `store.data_dir`."""
    seed: int = 0
    """Of weights that no checkpoint provides."""
    time_zone: str = "UTC"
    """Time zone (`Europe/Paris`) of the hours and days that users' statistics are in: another one is another model."""
    layout: Layout = "compiled"
    """`compiled`: an update costs what is new and a token per scenario. `chunked`: queries read the user, their tokens
    are computed at each update. `causal`: the paper's, for comparison."""
    event_tokens: bool = True
    """false: vectors from the summaries alone, without a forward of events and without KV pages. Another model."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` = CUDA if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` = bfloat16 on CUDA, float32 on a CPU."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of torch; 0 = half the cores, at least one: the other roles want the rest."""
    kv_pool_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Memory of the KV pages, on the device; the least recently used go. 0 = keep none."""
    batch_tokens: Annotated[int, Field(ge=64)] = 16_384
    """Token budget of one refresh batch."""
    min_interval_ms: Annotated[int, Field(ge=0)] = 200
    """A user is refreshed at most once per this interval."""
    max_staleness_ms: Annotated[int, Field(ge=0)] = 1000
    """The scheduler's target bound from a summary's arrival to its refresh."""
    silence_days: Annotated[tuple[Annotated[int, Field(ge=1, le=366)], ...], Field(max_length=16)] = (
        1, 2, 4, 8, 16, 32, 64,
    )  # fmt: skip
    """A user without new events is embedded again after about so many days; each divides the next. [] = never."""

    @property
    def checkpoint_directory(self) -> Path | None:
        """Of the checkpoint to load; None: weights stay as seeded."""
        if self.checkpoint == "none":
            return None
        if self.checkpoint != "shipped":
            return self.checkpoint
        own = SHIPPED / self.preset
        return own if self.path is None and own.is_dir() else None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key
        except (ValueError, KeyError, OSError) as exc:
            raise ValueError("not a time zone that this machine knows, like Europe/Paris") from exc

    @field_validator("silence_days")
    @classmethod
    def _check_days(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        check_days(days)
        return days
