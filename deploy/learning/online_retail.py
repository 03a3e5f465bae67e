"""UCI Online Retail to be judged on, by configuration alone: a data set that the shipped weights never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from deploy.learning.file_history import load_history
from deploy.settings.config import Settings, load
from encoder.learning.baselines.recency_frequency_money import Doubles, RecencyFrequencyMoney
from encoder.learning.evaluation.data_set import DataSet
from encoder.learning.moments import Moments
from encoder.learning.tasks import online_retail
from encoder.learning.windows import Windows

NAME = "online_retail"

_ROWS = 541_909


def load_settings() -> Settings:
    """The example's configuration: the one thing that knows this data set on its way to vectors."""
    return load(Path(str(files("deploy") / "examples" / "online_retail.toml")))


def load_data_set(settings: Settings, file: Path, show: Callable[[float, str], object]) -> DataSet:
    """Every customer of the file.

    Args:
        file: online_retail.parquet, with the columns of the public table.

    Raises:
        NotFoundError: there is no such file. WeightsError: the text encoder's weights are not installed.
    """
    import pyarrow.parquet as pq

    show(0.0, "reading rows")
    history = load_history(settings, [file], None, lambda done: show(min(1.0, done / _ROWS), f"{done:,} events"))
    made = online_retail.invoices(pq.read_table(file).to_pandas())
    place = {user: i for i, user in enumerate(history.users)}
    of = np.array([place[str(customer)] for customer in made.customers])
    customer_of = np.empty(len(history.users), np.int64)
    customer_of[of] = np.arange(len(of))
    features = RecencyFrequencyMoney(made)

    def base(asked: Moments) -> Doubles:
        times = {moment: online_retail.shop_time_of(moment) for moment in np.unique(asked.now).tolist()}
        shown = np.array([times[moment] for moment in asked.now.tolist()], np.int64)
        return features.of(customer_of[asked.users], shown)

    return DataSet(
        NAME,
        Windows(history, int(settings.processor.expiry_granularity_seconds * 1000)),
        [replace(task, users=of[task.users]) for task in online_retail.tasks(made)],
        list(online_retail.QUESTIONS.values()),
        settings.model.time_zone,
        {"base": base},
    )
