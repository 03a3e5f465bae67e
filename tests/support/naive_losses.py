"""The paper's masked contrastive loss, pair by pair (arXiv 2602.14492, public code)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def masked_contrastive(
    users: Tensor, answers: Tensor, answer: Sequence[int], temperature: float, margin: float
) -> float:
    """users, answers: (n, 128), unit length, pairs. answer: which text each one's is."""
    n, total = len(users), 0.0
    for i in range(n):
        positive = float(users[i] @ answers[i])
        z = math.exp(positive / temperature)
        for j in range(n):
            if answer[i] == answer[j]:
                continue
            for similarity in (users[i] @ users[j], users[i] @ answers[j], answers[i] @ users[j]):
                if float(similarity) <= positive + margin:
                    z += math.exp(float(similarity) / temperature)
        total -= math.log(math.exp(positive / temperature) / z)
    return total / n
