"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PretrainSettings:
    """Defaults: measured on the demo's data (docs/log.md), for `tiny` on two cores.

    batch: samples of a step. aspects: questions a step asks of all of them.
    text, classes, contrastive: weights of the losses (losses.py). distillation: of the distance to trees' answers
    (teacher.py), for so many questions as are `taught`; 0 = none.
    response_rows: of a step, samples with a question of their own; response_weight: of their loss.
    dropout: of what attention and MLP add. token_dropout: of whole summary tokens. mean_dropout: of mean text vectors.
    query_dropout: of queries' tokens. noise: of the statistics, in
    deviations. residual_share: of steps in which the modalities' residuals are used; in the others names have to do,
    disturbed by name_noise of their length, as if fields were called otherwise.
    event_share: of steps with event tokens, of event_users samples. longest_share: of steps that ask of the longest
    horizon. average: of the weights, from step to step.
    """

    steps: int = 800
    batch: int = 192
    aspects: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    warmup: int = 100
    clip: float = 1.0
    dropout: float = 0.4
    token_dropout: float = 0.15
    mean_dropout: float = 0.5
    query_dropout: float = 0.3
    noise: float = 0.5
    temperature: float = 0.07
    text: float = 1.0
    classes: float = 1.0
    contrastive: float = 0.0
    distillation: float = 2.0
    taught: int = 8
    response_rows: int = 32
    response_weight: float = 0.1
    residual_share: float = 0.75
    name_noise: float = 0.7
    event_share: float = 0.15
    event_users: int = 32
    average: float = 0.998
    longest_share: float = 0.5
    seed: int = 0
    threads: int = 0
    layout: str = "compiled"
