"""Checkpoints: `model.safetensors` (adapters, head, prompts, LoRA or a seeded preset's own layers) and `card.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.model import features, lora
from encoder.model.user_model import UserModel
from store.base.errors import WeightsError
from store.base.files import open_atomic, sweep, write_json

TENSORS, CARD = "model.safetensors", "card.json"
FORMAT = 2

LORA, PROMPTS, BACKBONE, RESIDUAL = "lora.", "prompts.", "lm.", "adapters.residual."


@dataclass(frozen=True)
class Card:
    """What a checkpoint is and where it comes from.

    id: hash of its tensors. weights_id: of the frozen weights it was trained on. modalities: those that it has
    residuals of, each with the names of its numbers.
    config, data, metrics: as the training run recorded them. commit: git commit of the code that trained it.
    features: version of the statistics that its summary tokens are made of.
    """

    name: str
    id: str
    weights_id: str
    trained: bool
    dim: int
    seed: int
    modalities: dict[str, list[str]]
    prompts: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    format: int = FORMAT
    features: int = 1


def tensors_id(tensors: dict[str, Tensor]) -> str:
    """Hash of names, types and values (12 hex digits)."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In half precision, which is enough for weights that are computed with in full."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def state(model: UserModel, *, seeded: bool) -> dict[str, Tensor]:
    """Tensors that a checkpoint holds: everything but frozen weights that come from elsewhere.

    Args:
        seeded: whether the language model itself was trained from a seed (preset `tiny`).
    """
    updates = {f"{LORA}{name}": t.contiguous().cpu() for name, t in lora.state(model.lm).items()}
    if seeded and updates:
        raise ValueError("a seeded language model is trained and saved whole, not through LoRA")
    own = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if seeded or not name.startswith(BACKBONE)
    }
    return own | updates


def save(
    model: UserModel,
    directory: Path,
    *,
    name: str,
    weights_id: str,
    trained: bool,
    seeded: bool,
    config: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    commit: str = "",
    half: bool = False,
) -> Card:
    """Write a checkpoint, tensors first and the card last: a directory with a card is whole.

    Args:
        half: store half of the bytes, see `halved`.
    """
    tensors = state(model, seeded=seeded)
    if half:
        tensors = halved(tensors)
    card = Card(
        name=name,
        id=tensors_id(tensors),
        weights_id=weights_id,
        trained=trained,
        dim=model.adapters.dim,
        seed=model.seed,
        modalities=model.numbers,
        prompts=sorted(model.prompts),
        config=config or {},
        data=data or {},
        metrics=metrics or {},
        commit=commit,
        features=features.VERSION,
    )
    sweep(directory)
    (directory / CARD).unlink(missing_ok=True)
    with open_atomic(directory / TENSORS) as file:
        save_file(tensors, file.name)
    write_json(directory / CARD, asdict(card))
    return card


def read_card(directory: Path) -> Card:
    """The card of a checkpoint. Raises WeightsError when there is none or it is of another format."""
    path = directory / CARD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{directory} is not a checkpoint: it has no {CARD}",
            action="set model.checkpoint to the directory of a checkpoint, or leave it out",
        ) from None
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: {exc}", action="restore the checkpoint", code="weights_unusable") from exc
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is not of format {FORMAT}", action="use a matching anchorstream version", code="weights_unusable"
        )
    try:
        return Card(**raw)
    except TypeError as exc:
        raise WeightsError(f"{path}: {exc}", action="restore the checkpoint", code="weights_unusable") from exc


def load_into(model: UserModel, directory: Path, *, weights_id: str) -> Card:
    """Load a checkpoint into a model. Of modalities it does not know, or with other numbers, it has names to go by.

    Raises:
        WeightsError: it is missing, damaged, or was trained on other weights or statistics.
    """
    card = read_card(directory)
    if card.weights_id != weights_id:
        raise WeightsError(
            f"the checkpoint {directory} was trained on {card.weights_id}, the preset's weights are {weights_id}",
            action="set model.preset and model.path to what the card names",
            code="weights_unusable",
        )
    if card.features != features.VERSION:
        raise WeightsError(
            f"the checkpoint {directory} was trained on version {card.features} of the statistics, this is "
            f"{features.VERSION}",
            action="use the version of anchorstream that trained it, or train again",
            code="weights_unusable",
        )
    try:
        tensors = load_file(directory / TENSORS)
    except (OSError, SafetensorError) as exc:
        raise WeightsError(
            f"{directory / TENSORS}: {exc}", action="restore the checkpoint", code="weights_unusable"
        ) from exc
    if tensors_id(tensors) != card.id:
        raise WeightsError(
            f"{directory}: the tensors are not those of the card", action="restore both files", code="weights_unusable"
        )
    known = {name for name in model.modalities if card.modalities.get(name) == model.numbers[name]}
    _apply(model, {name: t for name, t in tensors.items() if _wanted(name, known)}, directory)
    for name in set(model.modalities) - known:
        model.adapters.residuals(name).clear()
    model.adapters.forget_folded()
    return card


def _wanted(tensor: str, known: set[str]) -> bool:
    """Not the residuals of modalities that are not configured here, or with other numbers."""
    return not tensor.startswith(RESIDUAL) or tensor.removeprefix(RESIDUAL).split(".", 1)[0] in known


def _apply(model: UserModel, tensors: dict[str, Tensor], directory: Path) -> None:
    updates = {name.removeprefix(LORA): t for name, t in tensors.items() if name.startswith(LORA)}
    for name, tensor in tensors.items():
        if name.startswith(PROMPTS):
            model.prompts[name.removeprefix(PROMPTS)] = torch.nn.Parameter(tensor.clone())
    ours = model.state_dict()
    plain = {name: t for name, t in tensors.items() if not name.startswith(LORA)}
    wrong = [name for name, t in plain.items() if name not in ours or ours[name].shape != t.shape]
    if wrong:
        raise WeightsError(
            f"{directory}: {len(wrong)} tensors do not fit the model, first {wrong[0]!r}",
            action="set model.preset and model.path to what the card names",
            code="weights_unusable",
        )
    model.load_state_dict(plain, strict=False)
    lora.merge(model.lm, updates)
