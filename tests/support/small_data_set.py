"""A data set of made-up users, small enough for a model in tests: who buys tea goes on, who buys coffee goes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from encoder.learning.evaluation.data_set import DataSet
from encoder.learning.evaluation.noise import with_others
from encoder.learning.history import History, collect
from encoder.learning.moments import Moments
from encoder.learning.tasks.questions import Question
from encoder.learning.tasks.rows import Split, TaskRows
from encoder.learning.windows import Windows
from store.base.settings import ModalitySettings
from store.window.encoded_event import EncodedEvent
from tests.support.windows import DIM, vector

DAY = 86_400_000
START = 600 * DAY
MODALITIES = {
    "bill": ModalitySettings(topic="b", numbers=("amount",), window_days=30, max_events=8),
    "search": ModalitySettings(topic="s", window_days=30, max_events=4),
}
TEA, COFFEE = 1, 2
QUESTIONS = [
    Question(("Will this user go away?",), ("yes, the user goes away",), ("no, the user stays",)),
    Question(("Will this user buy tea?", "Tea?"), ("yes, the user buys tea",), ("no, the user buys no tea",)),
]


def drinkers(users: int) -> np.ndarray:
    """Who drinks tea, bool (users,)."""
    return np.random.default_rng(1).random(users) < 0.5


def history(users: int = 60) -> History:
    """A bill every other day or so, and a search now and then, for 60 days."""
    rng, made, tea = np.random.default_rng(0), [], drinkers(users)
    for u in range(users):
        for day in range(60):
            for name, often in (("bill", 0.4), ("search", 0.1)):
                if rng.random() < often:
                    what = TEA if tea[u] ^ (rng.random() < 0.2) else COFFEE
                    numbers = np.array([rng.normal(20, 5)] if name == "bill" else [], np.float32)
                    made.append(
                        EncodedEvent(
                            f"u{u:03}", name, START + day * DAY + u, f"{name}-{u}-{day}", len(made) + 1, numbers,
                            vector(what), None, "t:0", len(made), 0,
                        )
                    )  # fmt: skip
    return collect([made], MODALITIES, DIM)


def data_set(users: int = 60) -> DataSet:
    """Two tasks, the second of which asks both questions. `base` counts bills, and tells tea from coffee a little."""
    past, tea = history(users), drinkers(users)
    rng = np.random.default_rng(2)
    days = ((Split.TRAIN, (20, 30, 40)), (Split.VALIDATION, (50,)), (Split.TEST, (55, 60)))
    who, now, split = [], [], []
    for part, ends in days:
        for day in ends:
            who.append(np.arange(users))
            now.append(np.full(users, START + day * DAY))
            split.append(np.full(users, part, np.int8))
    users_of, rows = np.concatenate(who), sum(map(len, who))
    common = (users_of, np.concatenate(now))
    y = tea[users_of] ^ (rng.random(rows) < 0.1)
    none = np.zeros((rows, 0), np.float32)
    tasks = [
        TaskRows("goes", *common, ~y, np.concatenate(split), none, asks=np.zeros(rows, np.int64)),
        TaskRows("tea", *common, y, np.concatenate(split), none, asks=np.arange(rows) % 2),
    ]

    def base(asked: Moments) -> np.ndarray:
        known = tea[asked.users] + np.random.default_rng(3).normal(0, 0.7, len(asked.users))
        return np.stack([known, np.full(len(asked.users), np.nan)], axis=1)

    clean = DataSet("small", Windows(past, DAY // 24), tasks, QUESTIONS, "UTC", {"base": base, "long": base})

    def noisy(share: float) -> DataSet:
        return replace(clean, windows=Windows(with_others(past, ("bill", "search"), share), DAY // 24))

    return replace(clean, noisy=noisy)
