"""Vectors of a model for the tasks' own questions, and one for all: what a scenario's reader would get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.baselines.probe import Columns
from encoder.learning.moments import Moments
from encoder.learning.tasks.questions import GENERAL, Question, asked_pairs
from encoder.learning.tasks.rows import TaskRows
from store.base.settings import ScenarioSettings
from store.records.embedding import DIM
from store.window.user_window import UserWindow

_GENERAL = "general"


@dataclass(frozen=True, slots=True)
class _Answers:
    """moments: int64, ascending, those asked this question. vectors: float32 (of them, 128)."""

    moments: NDArray[np.int64]
    vectors: Columns

    def of(self, moments: NDArray[np.int64]) -> Columns:
        found: Columns = self.vectors[np.searchsorted(self.moments, moments)]
        return found


class ModelVectors:
    """Gathers a model's vectors, each computed from scratch at its moment.

    A moment is asked what its rows ask, all in one tail, and the general question.
    """

    def __init__(
        self,
        encoder: UserEncoder,
        tasks: Sequence[TaskRows],
        asked: Moments,
        questions: Sequence[Question],
        *,
        general: bool = True,
    ) -> None:
        """general: whether the general question is asked too."""
        self._encoder, self._asked, self._questions = encoder, asked, questions
        self._asks = {task.name: task.asks for task in tasks}
        pairs = asked_pairs(tasks, [asked.place[task.name] for task in tasks])
        self._answers = {}
        self._of: list[tuple[int, ...]] = [()] * len(asked.users)
        for question in np.unique(pairs[:, 1]).tolist():
            moments = pairs[pairs[:, 1] == question, 0]
            self._answers[question] = _Answers(moments, np.zeros((len(moments), DIM), np.float32))
            encoder.add_scenario(f"q{question}", ScenarioSettings(query=questions[question].query))
        for moment, question in pairs.tolist():
            self._of[moment] += (question,)
        self.general: Columns | None = None
        if general:
            encoder.add_scenario(_GENERAL, ScenarioSettings(query=GENERAL))
            self.general = np.zeros((len(asked.users), DIM), np.float32)

    def take(self, rows: slice, windows: Sequence[UserWindow]) -> None:
        """Moments that are asked the same are encoded together."""
        together: dict[tuple[int, ...], list[int]] = {}
        for i in range(rows.start, rows.stop):
            together.setdefault(self._of[i], []).append(i)
        for questions, moments in together.items():
            names = [f"q{question}" for question in questions]
            if self.general is not None:
                names.append(_GENERAL)
            found = self._encoder.encode_from_scratch([windows[i - rows.start] for i in moments], names)
            for k, question in enumerate(questions):
                own = self._answers[question]
                own.vectors[np.searchsorted(own.moments, moments)] = found[:, k]
            if self.general is not None:
                self.general[moments] = found[:, -1]

    def of(self, task: str) -> Columns:
        """Vectors of a task's rows for what each asks, float32 (rows, 128): a `Source`."""
        asks, place = self._asks[task], self._asked.place[task]
        found = np.zeros((len(asks), DIM), np.float32)
        for question in np.unique(asks).tolist():
            mine = asks == question
            found[mine] = self._answers[question].of(place[mine])
        return found

    def zero_shot(self, task: str) -> Columns:
        """Cosine to what says yes, less that to what says no, float32 (rows, 1): a `Source`."""
        asks, vectors = self._asks[task], self.of(task)
        found = np.zeros((len(asks), 1), np.float32)
        for question in np.unique(asks).tolist():
            mine = asks == question
            found[mine, 0] = vectors[mine] @ self._towards_yes(self._questions[question])
        return found

    def _towards_yes(self, question: Question) -> NDArray[np.float32]:
        yes, no = (_unit(self._encoder.encode_texts(list(texts)).mean(axis=0)) for texts in (question.yes, question.no))
        return yes - no


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.float32(np.linalg.norm(vector))
