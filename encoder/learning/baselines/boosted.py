"""Gradient-boosted trees on columns, as the reference has them: what a risk team would do with hand-made features."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.probe import Columns, Reader
from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import Doubles
from store.base.errors import NotFoundError

PARAMETERS: Final = {
    "n_estimators": 600,
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_child_samples": 40,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.5,
    "reg_lambda": 5,
}
THREADS: Final = max(1, (os.cpu_count() or 1) // 2)
"""Half the cores: threads that spin for each other on a busy machine cost ten times what they compute."""
PATIENCE: Final = 60
"""Trees without a better AUC or logarithmic loss on the rows of validation, whichever stalls first, end it."""


def fit_boosted(columns: Columns, y: NDArray[np.bool_], split: NDArray[np.int8], *, seed: int = 0) -> Reader:
    """Trees grown on the rows of training; those of validation say when to stop. Scores are log odds.

    Args:
        columns: (n, k), NaN = nothing to say. y: (n,). split: (n,), of `Split`.

    Raises:
        NotFoundError: LightGBM is not installed.
    """
    trees = lightgbm()
    train, validation = split == Split.TRAIN, split == Split.VALIDATION
    model = trees.LGBMClassifier(
        **PARAMETERS, random_state=seed, verbose=-1, n_jobs=THREADS, deterministic=True, force_row_wise=True
    )
    model.fit(
        columns[train],
        y[train],
        eval_X=columns[validation],
        eval_y=y[validation],
        eval_metric="auc",
        callbacks=[trees.early_stopping(PATIENCE, verbose=False)],
    )

    def read(columns: Columns) -> Doubles:
        scores: Doubles = model.predict(columns, raw_score=True)
        return scores

    return read


def lightgbm() -> Any:
    """The module. Raises NotFoundError: LightGBM is not installed."""
    try:
        import lightgbm
    except (ImportError, OSError):  # OSError: libgomp is not there
        raise NotFoundError("lightgbm is not installed", action="pip install 'anchorstream[learn,demo]'") from None
    return lightgbm
