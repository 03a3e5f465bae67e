"""What a linear reader finds in frozen vectors: logistic regression on standardised columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import Doubles
from store.base.errors import NotFoundError

MAX_ITERATIONS = 500

Columns = NDArray[np.float32]
Reader = Callable[[Columns], Doubles]
"""columns (n, k) → scores, float64 (n,)."""


def fit_logistic(
    columns: Columns, y: NDArray[np.bool_], split: NDArray[np.int8], *, strengths: Sequence[float]
) -> dict[float, Reader]:
    """Regressions fitted on the rows of training alone, by strength; their scores are log odds.

    Each begins where the one before it ended, from the strongest regularisation on, which takes a third of the time.

    Args:
        columns: (n, k), finite. y: (n,). split: (n,), of `Split`. strengths: C, the inverse of regularisation.

    Raises:
        NotFoundError: scikit-learn is not installed.
    """
    linear, scaler = sklearn()
    fitted = split == Split.TRAIN
    own = columns[fitted].astype(np.float64)
    scale = scaler().fit(own)
    own = scale.transform(own)
    model = linear(max_iter=MAX_ITERATIONS, warm_start=True)
    readers = {}
    for strength in sorted(strengths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bound on iterations is the reference's
            model.set_params(C=strength).fit(own, y[fitted])
        weights = model.coef_[0] / scale.scale_
        readers[strength] = _linear(weights, float(model.intercept_[0] - scale.mean_ @ weights))
    return readers


def _linear(weights: Doubles, intercept: float) -> Reader:
    def read(columns: Columns) -> Doubles:
        scores: Doubles = columns.astype(np.float64) @ weights + intercept
        return scores

    return read


def logistic(columns: Columns, y: NDArray[np.bool_], split: NDArray[np.int8], *, strength: float) -> Doubles:
    """Scores of all rows, as `fit_logistic` reads them."""
    return fit_logistic(columns, y, split, strengths=(strength,))[strength](columns)


def sklearn() -> tuple[Any, Any]:
    """(LogisticRegression, StandardScaler). Raises NotFoundError: scikit-learn is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise NotFoundError("scikit-learn is not installed", action="pip install 'anchorstream[learn,demo]'") from None
    return LogisticRegression, StandardScaler
