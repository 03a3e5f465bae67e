"""Losses by hand, and what they must not punish."""

from __future__ import annotations

import math

import torch

from encoder.learning.pretraining import losses
from tests.support.naive_losses import masked_contrastive


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_answers_is_a_softmax_over_those_asked() -> None:
    users, of_classes = unit(4, 128), unit(3, 128, seed=1)
    classes = torch.tensor([0, -1, 2, 1])
    scale, bias = torch.tensor(5.0), torch.tensor([0.1, -0.2, 0.3])
    wanted = []
    for user, mine in zip(users, classes.tolist(), strict=True):
        if mine >= 0:
            odds = [math.exp(float(user @ of) * 5 + b) for of, b in zip(of_classes, bias.tolist(), strict=True)]
            wanted.append(-math.log(odds[mine] / sum(odds)))
    found = losses.answers(users, of_classes, classes, scale, bias)
    assert math.isclose(float(found), sum(wanted) / len(wanted), rel_tol=1e-5)


def test_nobody_asked_is_no_loss_and_no_gradient() -> None:
    users = unit(3, 128).requires_grad_()
    loss = losses.answers(users, unit(2, 128), torch.full((3,), -1), torch.tensor(1.0))
    loss.backward()
    assert float(loss) == 0
    assert users.grad is not None
    assert not users.grad.any()


def test_contrastive_is_the_papers() -> None:
    users, own = unit(7, 128), unit(7, 128, seed=1)
    own = torch.nn.functional.normalize(own + users, dim=-1)
    answer = torch.tensor([0, 1, 2, 2, 3, 4, 0])
    own = own[torch.tensor([0, 1, 2, 2, 4, 5, 0])]
    found = losses.contrastive(users, own, answer, 0.07)
    assert math.isclose(
        float(found), masked_contrastive(users, own, answer.tolist(), 0.07, losses.MARGIN), rel_tol=1e-4
    )


def test_equal_answers_and_likely_ones_are_no_negatives() -> None:
    """All answers equal: nothing to tell apart, so no loss."""
    users = unit(5, 128)
    own = unit(1, 128, seed=2).expand(5, 128)
    assert abs(float(losses.contrastive(users, own, torch.zeros(5, dtype=torch.long), 0.07))) < 1e-6


def test_distillation_is_least_where_the_answer_is_the_teachers() -> None:
    no_and_yes = unit(2, 128, seed=3)
    towards = no_and_yes[1] - no_and_yes[0]
    targets = torch.tensor([0.9, 0.2, float("nan")])
    users = torch.nn.functional.normalize(torch.stack([towards, -towards, towards]), dim=-1).requires_grad_()
    loss = losses.distillation(users, no_and_yes, targets, torch.tensor(2.0))
    wanted = []
    for user, target in zip(users.detach()[:2], (0.9, 0.2), strict=True):
        yes = 1 / (1 + math.exp(-2 * float(user @ towards)))
        wanted.append(-target * math.log(yes) - (1 - target) * math.log(1 - yes))
    assert math.isclose(loss.item(), sum(wanted) / 2, rel_tol=1e-5)
    loss.backward()
    assert users.grad is not None
    assert not users.grad[2].any(), "nobody taught it"
    assert losses.distillation(users, no_and_yes, targets * float("nan"), torch.tensor(2.0)).item() == 0
