"""Language models by preset: `tiny` (built here, seeded), `smollm2-135m` (from a wheel), any Llama or Qwen2 by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from encoder.model import weights
from encoder.model.lean_import import without
from encoder.model.settings import ModelSettings
from store.base.errors import WeightsError

with without("sklearn"):
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaModel,
        Qwen2Model,
        modeling_gguf_pytorch_utils,
    )
    from transformers.utils import logging as transformers_logging

TINY = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "rope_theta": 100_000.0,
}
"""Sized by measurement: 10 scenarios of a hot user in 3 ms of one CPU core (`anchorstream bench encoder`)."""


class Pretrained(NamedTuple):
    """A language model as it comes, before any checkpoint of ours.

    lm: transformers LlamaModel or Qwen2Model, float32. embedding: frozen token embeddings (vocabulary, width).
    tokenize: text → token ids, without special tokens. weights_id: changes with anything that changes an output.
    seeded: whether lm itself still has to be initialised (and belongs into a checkpoint).
    """

    lm: Any
    embedding: Tensor
    tokenize: Callable[[str], list[int]]
    weights_id: str
    seeded: bool


def load(settings: ModelSettings) -> Pretrained:
    """Load the preset's language model, float32 on the CPU.

    Raises:
        WeightsError: a package or file is missing, or the model is of another type; the action says what to do.
    """
    transformers_logging.disable_progress_bar()
    if settings.path is not None:
        return _from_directory(settings.path)
    if settings.preset == "tiny":
        return _tiny()
    if settings.preset == "smollm2-135m":
        return _smollm2()
    raise WeightsError(
        f"the weights of preset {settings.preset!r} do not come with anchorstream",
        action="set model.path to a directory of Qwen2.5-0.5B-Instruct (config.json, *.safetensors, tokenizer.json)",
    )


def _tiny() -> Pretrained:
    directory = weights.minilm_dir()
    with safe_open(directory / "model.safetensors", "pt") as tensors:
        embedding = tensors.get_tensor("embeddings.word_embeddings.weight").float()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    shape = ",".join(f"{key}={value}" for key, value in sorted(TINY.items()))
    files = weights.content_id([directory / "model.safetensors", directory / "tokenizer.json"])
    return Pretrained(
        lm=LlamaModel(
            LlamaConfig(vocab_size=1, bos_token_id=None, eos_token_id=None, max_position_embeddings=8192, **TINY)
        ),
        embedding=embedding,
        tokenize=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        weights_id=f"tiny:{shape}:{files}",
        seeded=True,
    )


def _smollm2() -> Pretrained:
    directory = weights.smollm2_dir()
    options = {"gguf_file": weights.SMOLLM2_FILE, "local_files_only": True}
    content = weights.content_id([directory / weights.SMOLLM2_FILE])
    with _gguf_read_once():
        return _pretrained(directory, f"smollm2-135m:{content}", **options)


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """transformers parses a GGUF file four times, seconds each, and draws a bar its own switch does not silence."""
    reader, bar = gguf.GGUFReader, modeling_gguf_pytorch_utils.tqdm
    gguf.GGUFReader = cache(reader)
    modeling_gguf_pytorch_utils.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf.GGUFReader, modeling_gguf_pytorch_utils.tqdm = reader, bar


def _from_directory(path: Path) -> Pretrained:
    content = weights.content_id(weights.lm_weight_files(path))
    return _pretrained(path, f"path:{content}", local_files_only=True)


def _pretrained(directory: Path, weights_id: str, **options: Any) -> Pretrained:
    try:
        lm: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options).model
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, **options)
    except (OSError, ValueError, KeyError, ImportError) as exc:
        raise WeightsError(
            f"{directory}: transformers cannot load it: {exc}",
            action="model.path must hold a Llama- or Qwen2-type causal LM with its tokenizer",
            code="weights_unusable",
        ) from exc
    if not isinstance(lm, LlamaModel | Qwen2Model):
        raise WeightsError(
            f"{directory} holds a {type(lm).__name__}",
            action="use a Llama- or Qwen2-type causal LM",
            code="weights_unusable",
        )

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Pretrained(lm, lm.embed_tokens.weight.detach(), tokenize, weights_id, seeded=False)
