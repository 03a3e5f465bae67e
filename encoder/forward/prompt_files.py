"""Soft prompts beside a checkpoint's: `<prompts_dir>/<name>.safetensors`, one tensor (tokens, hidden)."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from encoder.forward.user_encoder import UserEncoder
from store.base.errors import WeightsError
from store.base.settings import NAME

MAX_PROMPT_TOKENS = 256
"""Every user's tail carries them."""
_TUNE = "put the tuned prompt into model.prompts_dir, or register the scenario without `prompt`"


class PromptFiles:
    """Loads prompts that the checkpoint lacks into one encoder. A prompt of the checkpoint is never replaced."""

    def __init__(self, encoder: UserEncoder, directory: Path | None) -> None:
        self._encoder = encoder
        self._directory = directory
        self._of_checkpoint = frozenset(encoder.card.prompts if encoder.card is not None else ())

    def has(self, name: str) -> bool:
        """Whether the model has the prompt already."""
        return name in self._encoder.model.prompts

    def load(self, name: str) -> bool:
        """Bring a prompt into the model, or swap it for what its file holds now.

        Returns:
            Whether the model's prompt changed; scenarios that use it must then be added again.

        Raises:
            WeightsError: there is no such prompt, or it does not fit the model. The model is unchanged.
        """
        if name in self._of_checkpoint:
            return False
        found = self._read(name)
        there = self._encoder.model.prompts[name] if self.has(name) else None
        if there is not None and there.shape == found.shape and torch.equal(there.cpu().float(), found.float()):
            return False
        self._encoder.set_prompt(name, found)
        return True

    def _read(self, name: str) -> Tensor:
        if re.fullmatch(NAME, name) is None:
            # it becomes a path
            raise WeightsError(f"{name!r:.80} is not the name of a soft prompt", action=_TUNE, code="prompt_missing")
        if self._directory is None:
            raise WeightsError(
                f"the soft prompt {name!r} is not in the checkpoint, and prompts_dir is not set",
                action=_TUNE,
                code="prompt_missing",
            )
        path = self._directory / f"{name}.safetensors"
        try:
            tensors = list(load_file(path).values())
        except FileNotFoundError:
            raise WeightsError(
                f"the soft prompt {name!r} is neither in the checkpoint nor at {path}",
                action=_TUNE,
                code="prompt_missing",
            ) from None
        except (OSError, SafetensorError) as exc:
            raise WeightsError(f"{path}: {exc}", action="write the prompt anew", code="weights_unusable") from exc
        if len(tensors) != 1 or tensors[0].ndim != 2 or not tensors[0].is_floating_point():
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise WeightsError(
                f"{path} holds {shapes or 'nothing'}; a soft prompt is one tensor (tokens, hidden) of floats",
                action="write the prompt anew",
                code="weights_unusable",
            )
        if not 1 <= len(tensors[0]) <= MAX_PROMPT_TOKENS or not bool(torch.isfinite(tensors[0]).all()):
            raise WeightsError(
                f"{path}: {len(tensors[0])} tokens; a soft prompt has 1 to {MAX_PROMPT_TOKENS}, of finite numbers",
                action="write the prompt anew",
                code="weights_unusable",
            )
        return tensors[0].float()
