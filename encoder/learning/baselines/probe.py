"""What a linear reader finds in frozen vectors: logistic regression on standardised columns."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import Doubles
from store.base.errors import NotFoundError

MAX_ITERATIONS = 500


def logistic(
    columns: NDArray[np.float32], y: NDArray[np.bool_], split: NDArray[np.int8], *, strength: float
) -> Doubles:
    """Scores (log odds) of all rows, float64 (n,), of a regression fitted on the rows of training alone.

    Args:
        columns: (n, k), finite. y: (n,). split: (n,), of `Split`. strength: C, the inverse of regularisation.

    Raises:
        NotFoundError: scikit-learn is not installed.
    """
    linear, scaler = sklearn()
    fitted = split == Split.TRAIN
    scale = scaler().fit(columns[fitted].astype(np.float64))
    model = linear(C=strength, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bound on iterations is the reference's
        model.fit(scale.transform(columns[fitted].astype(np.float64)), y[fitted])
    scores: Doubles = model.decision_function(scale.transform(columns.astype(np.float64)))
    return scores


def sklearn() -> tuple[Any, Any]:
    """(LogisticRegression, StandardScaler). Raises NotFoundError: scikit-learn is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise NotFoundError("scikit-learn is not installed", action="pip install 'anchorstream[learn,demo]'") from None
    return LogisticRegression, StandardScaler
