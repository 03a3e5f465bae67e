"""Soft prompts beside a checkpoint's: `<prompts_dir>/<name>.safetensors` (encoder/model/soft_prompt.py)."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from encoder.forward.user_encoder import UserEncoder
from encoder.model.soft_prompt import SUFFIX, read
from store.base.errors import WeightsError
from store.base.settings import NAME

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
            WeightsError: there is no such prompt, it does not fit the model, or was tuned on other weights. The model
                is unchanged.
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
        path = self._directory / f"{name}{SUFFIX}"
        try:
            found = read(path)
        except FileNotFoundError:
            raise WeightsError(
                f"the soft prompt {name!r} is neither in the checkpoint nor at {path}",
                action=_TUNE,
                code="prompt_missing",
            ) from None
        if found.about.weights not in ("", self._encoder.weights):
            raise WeightsError(
                f"the soft prompt {path} was tuned on other weights ({found.about.weights}) than the model has "
                f"({self._encoder.weights})",
                action="tune it anew on this model (`anchorstream tune`), or set model.checkpoint back",
                code="weights_unusable",
            )
        return found.tokens
