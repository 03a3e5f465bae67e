"""What a tuning run is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TuneSettings:
    """Defaults: the paper's (arXiv 2602.14492), the learning rate of a prototype.

    tokens: of the prompt. batch: rows of a step, as many of each class. temperature: of cosines to prototypes.
    warmup: steps until the learning rate is reached; it falls to a tenth by the end. choose_every: steps after which
    the users who choose are asked. rows: at most so many labelled moments are read. state_bytes: and as many as fit.
    """

    tokens: int = 6
    steps: int = 500
    batch: int = 128
    learning_rate: float = 0.02
    temperature: float = 0.07
    warmup: int = 30
    choose_every: int = 25
    rows: int = 10_000
    state_bytes: int = 1 << 30
    seed: int = 0
