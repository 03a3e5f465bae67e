"""Losses over unit vectors of users, one per (sample, question), and of answers.

`answers`: softmax over the answers of the same question, which learned best (docs/log.md). `contrastive`: the paper's
(arXiv 2602.14492, public code), over all pairs of a batch, with the margin that spares likely false negatives.
`distillation`: towards what a teacher says of a yes, where its answer is no bit but a probability.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

MARGIN = 0.1


def answers(users: Tensor, of_classes: Tensor, classes: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mean cross-entropy; 0 where nobody is asked.

    Args:
        users: (n, 128). of_classes: (classes, 128). classes: int64 (n,), -1 = not asked. scale: of the cosines.
    """
    asked = classes >= 0
    if not bool(asked.any()):
        return users.sum() * 0
    logits = users[asked] @ of_classes.T * scale
    return cross_entropy(logits if bias is None else logits + bias, classes[asked])


def distillation(
    users: Tensor, no_and_yes: Tensor, targets: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy to how likely a yes is; 0 where nobody is taught.

    Args:
        users: (n, 128). no_and_yes: (2, 128). targets: (n,), NaN = not taught. bias: (2,).
    """
    taught = ~torch.isnan(targets)
    if not bool(taught.any()):
        return users.sum() * 0
    logits = users[taught] @ (no_and_yes[1] - no_and_yes[0]) * scale
    if bias is not None:
        logits = logits + bias[1] - bias[0]
    return binary_cross_entropy_with_logits(logits, targets[taught])


def contrastive(users: Tensor, own_answers: Tensor, answer: Tensor, temperature: float) -> Tensor:
    """The paper's masked contrastive loss.

    Args:
        users, own_answers: (n, 128), pairs. answer: int64 (n,), equal where two answers are the same text: these are
            never each other's negatives.
    """
    to_users, to_answers = users @ users.T, users @ own_answers.T
    positive = to_answers.diagonal()
    other = answer[:, None] != answer
    terms = [positive[:, None] / temperature]
    for similarity in (to_users, to_answers, to_answers.T):
        kept = other & (similarity.detach() <= positive.detach()[:, None] + MARGIN)
        terms.append((similarity / temperature).masked_fill(~kept, float("-inf")))
    return (torch.logsumexp(torch.cat(terms, 1), 1) - positive / temperature).mean()
