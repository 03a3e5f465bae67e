"""What a prompt is worth: AUC and KS on held-out users, of vectors with it beside those without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.probe import Columns
from encoder.learning.evaluation.evaluation import Evaluation
from encoder.learning.evaluation.table import Method
from encoder.learning.tasks.rows import TaskRows
from encoder.learning.tasks.scores import Interval
from encoder.learning.tuning.labels import Labelled

WITHOUT, WITH = "query", "query_prompt"


@dataclass(frozen=True)
class Scores:
    """methods: by (vectors, reader): `query` or `query_prompt`, `probe` or `prototypes`; per class the AUC and KS of
    telling it from all others (of two classes, of the second). lift: 95 % of AUC with less without, per reader."""

    methods: dict[tuple[str, str], Method]
    lift: dict[str, Interval]

    @property
    def helps(self) -> bool:
        """Whether the prompt raises the mean AUC of a linear reader, or of prototypes without lowering that."""
        gain = {reader: self.gain(reader) for reader in ("probe", "prototypes")}
        return gain["probe"] > 0 or (gain["probe"] == 0 and gain["prototypes"] > 0)

    def gain(self, reader: str) -> float:
        """Mean AUC with the prompt less that without."""
        return self.methods[WITH, reader].mean_auc - self.methods[WITHOUT, reader].mean_auc

    def to_dict(self) -> dict[str, Any]:
        """For --json: `{vectors}.{reader}.{auc,ks}` and `lift.{reader}`."""
        out: dict[str, Any] = {WITHOUT: {}, WITH: {}}
        for (vectors, reader), method in self.methods.items():
            own: dict[str, Any] = {"auc": round(method.mean_auc, 6), "ks": round(method.mean_ks, 6)}
            if len(method.auc) > 1:
                own["classes"] = {name: round(value, 6) for name, value in method.auc.items()}
            out[vectors][reader] = own
        out["lift"] = {reader: [round(self.gain(reader), 6), *map(float, self.lift[reader])] for reader in self.lift}
        return out


def score(
    labelled: Labelled,
    vectors: Mapping[str, Columns],
    prototypes: Mapping[str, NDArray[np.float32]],
    temperature: float,
) -> Scores:
    """Judge vectors without and with a prompt on held-out users. Probes are fitted on the users of training, and those
    who choose choose their strength.

    Args:
        vectors: (n, 128) of the labelled rows. prototypes: (classes, 128), unit. Both by `WITHOUT` and `WITH`.

    Raises:
        NotFoundError: scikit-learn is not installed.
    """
    told = labelled.names[1:] if len(labelled.names) == 2 else labelled.names
    nothing = np.zeros((len(labelled.users), 0), np.float32)
    tasks = [
        TaskRows(
            name, labelled.users, labelled.now, labelled.classes == labelled.names.index(name), labelled.split, nothing
        )
        for name in told
    ]
    evaluation = Evaluation(tasks)
    methods, lift = {}, {}
    for name, own in vectors.items():
        near = _log_shares(own, prototypes[name], temperature)
        methods[name, "probe"] = evaluation.choose(lambda _, own=own: own)  # type: ignore[misc]
        methods[name, "prototypes"] = evaluation.scored(
            lambda task, near=near: near[:, labelled.names.index(task)][:, None],  # type: ignore[misc]
            "prototypes",
        )
    for reader in ("probe", "prototypes"):
        lift[reader] = evaluation.difference(methods[WITH, reader], methods[WITHOUT, reader])["mean"]
    return Scores(methods, lift)


def _log_shares(vectors: Columns, prototypes: NDArray[np.float32], temperature: float) -> Columns:
    """Log of the softmax over cosines, float32 (n, classes)."""
    logits = vectors.astype(np.float64) @ prototypes.T / temperature
    top = logits.max(axis=1, keepdims=True)
    found: Columns = (logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))).astype(np.float32)
    return found
