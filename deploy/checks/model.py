"""Checks of the weights: there, loadable, and fitting each other."""

from __future__ import annotations

from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings


def check_text_encoder(_: Settings) -> Finding:
    """Its weights are there; their id is what the token buffers remember."""
    from encoder.model.text_encoder import identity

    encoder_id, dim = identity()
    return Finding("text encoder", Level.OK, f"{encoder_id}, {dim}-d")


def check_model(settings: Settings) -> Finding:
    """The preset's weights load, and the checkpoint is one for them."""
    from encoder.model import checkpoint, presets

    loaded = presets.load(settings.model)
    path = settings.model.checkpoint_directory
    if path is None:
        return Finding(
            "model",
            Level.WARN,
            f"{loaded.weights_id}; no checkpoint: embeddings come from a seeded, untrained head",
            "set model.checkpoint; `anchorstream pretrain` makes one",
        )
    card = checkpoint.read_card(path)
    if card.weights_id != loaded.weights_id:
        return Finding(
            "model",
            Level.FAIL,
            f"{path} was trained on {card.weights_id}, the preset's weights are {loaded.weights_id}",
            "set model.preset and model.path to what the card names",
        )
    level, note = (Level.OK, "") if card.trained else (Level.WARN, ", untrained")
    return Finding("model", level, f"{loaded.weights_id}, checkpoint {card.name} ({card.id}{note})")
