"""A soft prompt in a file: safetensors of a few kilobytes, with what it was tuned for.

Tensors `prompt` (tokens, hidden) and, where it was tuned here, `prototypes` (classes, 128) of unit length; the metadata
`anchorstream` is JSON (`About`). One tensor alone, of any name, is a prompt too, of which nothing is known.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.model.checkpoint import tensors_id
from store.base.errors import WeightsError
from store.base.files import open_atomic

MAX_PROMPT_TOKENS = 256
"""Every user's tail carries them."""
SUFFIX = ".safetensors"
_PROMPT, _PROTOTYPES, _ABOUT = "prompt", "prototypes", "anchorstream"


@dataclass(frozen=True)
class About:
    """weights: of the model it was tuned on (`UserEncoder.weights`); empty = not said. layout: likewise.

    classes: what each prototype stands for. scores: on held-out users. config: how it was tuned.
    """

    scenario: str = ""
    query: str = ""
    weights: str = ""
    layout: str = ""
    classes: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SoftPrompt:
    """tokens: (tokens, hidden). prototypes: (classes, 128) or None. Both float32."""

    tokens: Tensor
    prototypes: Tensor | None = None
    about: About = field(default_factory=About)

    @property
    def id(self) -> str:
        """Hash of the tokens, 12 hex digits."""
        return tensors_id({_PROMPT: self.tokens.float()})


def write(path: Path, prompt: SoftPrompt) -> None:
    """Write a prompt's file. Raises OSError."""
    tensors = {_PROMPT: prompt.tokens.detach().float().cpu().contiguous()}
    if prompt.prototypes is not None:
        tensors[_PROTOTYPES] = prompt.prototypes.detach().float().cpu().contiguous()
    with open_atomic(path) as file:
        save_file(tensors, file.name, metadata={_ABOUT: json.dumps(asdict(prompt.about), ensure_ascii=False)})


def read(path: Path) -> SoftPrompt:
    """Read a prompt's file.

    Raises:
        FileNotFoundError: there is none. WeightsError: it is no prompt.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            about = _about((file.metadata() or {}).get(_ABOUT))
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError) as exc:
        raise WeightsError(f"{path}: {exc}", action="write the prompt anew", code="weights_unusable") from exc
    prototypes = tensors.pop(_PROTOTYPES, None)
    if len(tensors) != 1 or (tokens := next(iter(tensors.values()))).ndim != 2 or not tokens.is_floating_point():
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        raise WeightsError(
            f"{path} holds {shapes or 'nothing'}; a soft prompt is one tensor (tokens, hidden) of floats",
            action="write the prompt anew",
            code="weights_unusable",
        )
    if not 1 <= len(tokens) <= MAX_PROMPT_TOKENS or not bool(torch.isfinite(tokens).all()):
        raise WeightsError(
            f"{path}: {len(tokens)} tokens; a soft prompt has 1 to {MAX_PROMPT_TOKENS}, of finite numbers",
            action="write the prompt anew",
            code="weights_unusable",
        )
    return SoftPrompt(tokens.float(), None if prototypes is None else prototypes.float(), about)


def _about(text: str | None) -> About:
    """What a newer version says besides is ignored."""
    if text is None:
        return About()
    raw = json.loads(text)
    return About(**{name: raw[name] for name in About.__dataclass_fields__ if name in raw})
