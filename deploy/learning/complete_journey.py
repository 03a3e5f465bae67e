"""Complete Journey to learn from: all its events through the journey's configuration, its tasks, hand-made features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.brokers.kafka_jars import cache_dir
from deploy.demo import journey
from deploy.settings.config import Settings, load
from encoder.learning.baselines.hand_made import Doubles, HandMade
from encoder.learning.baselines.long_memory import LongMemory
from encoder.learning.evaluation.data_set import DataSet, HandMadeFeatures
from encoder.learning.evaluation.noise import copied, receivers, with_others
from encoder.learning.history import History, accepted, collect, encoded
from encoder.learning.moments import Moments
from encoder.learning.tasks import complete_journey
from encoder.learning.text_vectors import StoredTextVectors
from encoder.learning.windows import Windows
from encoder.model.text_encoder import TextEncoder

NAME = "completejourney"
BASKETS = ("payment", "purchase")
"""Modalities of which noise is made: the same baskets in the history and in the tables."""

_EVENTS = 1_634_171


def load_settings() -> Settings:
    """The demo's configuration."""
    return load(Path(str(files("deploy") / "examples" / "journey.toml")))


def load_data_set(settings: Settings, show: Callable[[float, str], object]) -> DataSet:
    """Every household and event of the panel.

    Raises:
        NotFoundError: the data package is not installed. WeightsError: the text encoder's weights are not.
    """
    show(0.0, "reading tables")
    tables = journey.load_tables()
    households, tasks = complete_journey.tasks(tables)
    panel = journey.whole(tables)
    encoder = StoredTextVectors(TextEncoder(cache_entries=0), cache_dir())
    history = collect(
        encoded(accepted(panel.events(), settings.modalities, settings.mapping), encoder),
        settings.modalities,
        encoder.dim,
        lambda done: show(min(1.0, done / _EVENTS), f"{done:,} events"),
    )
    encoder.save()
    place = {user: i for i, user in enumerate(history.users)}
    of = np.array([place[journey.user_of(household)] for household in households])
    categories = journey.campaign_categories(tables, tables["campaign_descriptions"].campaign_id)
    granularity_ms = int(settings.processor.expiry_granularity_seconds * 1000)
    people = Households(of, tables)
    clean = DataSet(
        NAME,
        Windows(history, granularity_ms),
        [replace(task, users=of[task.users]) for task in tasks],
        complete_journey.questions(tables, categories),
        settings.model.time_zone,
        people.features(tables),
    )

    def noisy(share: float) -> DataSet:
        return replace(
            clean,
            windows=Windows(with_others(history, BASKETS, share), granularity_ms),
            hand_made=people.features(people.with_others(history, panel.tables["lines"], share)),
        )

    return replace(clean, noisy=noisy)


@dataclass(frozen=True)
class Households:
    """Households as the features know them. of: per household its place in the history. tables: as they come."""

    of: NDArray[np.int64]
    tables: Mapping[str, Any]

    def features(self, tables: Mapping[str, Any]) -> dict[str, HandMadeFeatures]:
        """`base`: the reference's; `long`: of what lies before their window. Tables are read when first asked for."""
        household_of = np.empty(int(self.of.max()) + 1, np.int64)
        household_of[self.of] = np.arange(len(self.of))

        def at(kind: type[HandMade] | type[LongMemory]) -> HandMadeFeatures:
            made: list[HandMade | LongMemory] = []

            def features(asked: Moments) -> Doubles:
                if not made:
                    made.append(kind(tables))
                return made[0].of(household_of[asked.users], complete_journey.days_of(asked.now))

            return features

        return {"base": at(HandMade), "long": at(LongMemory)}

    def with_others(self, history: History, lines: Any, share: float) -> Mapping[str, Any]:
        """The tables with the baskets that `with_others` copies in the history. lines: of the panel, with `ts`."""
        import pandas as pd

        place = {user: i for i, user in enumerate(history.users)}
        names = {i: int(user.rpartition("-")[2]) for user, i in place.items()}
        who = lines.household_id.map(lambda household: place[journey.user_of(int(household))]).to_numpy(np.int64)
        chosen = copied(who, lines.ts.to_numpy(np.int64), share)
        to = receivers(len(history.users))[who[chosen]]
        columns = list(self.tables["transactions"].columns)
        copies = lines.loc[chosen, columns].assign(
            household_id=pd.Series(to, index=lines.index[chosen]).map(names),
            basket_id="copy of " + lines.basket_id[chosen].astype(str),
        )
        return {**self.tables, "transactions": pd.concat([self.tables["transactions"], copies], ignore_index=True)}
