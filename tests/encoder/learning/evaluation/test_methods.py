"""All methods on a small data set: each has its row, those that read more know more, and old or noisy is worse."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.evaluation import variations
from encoder.learning.evaluation.columns import TextPool, gather
from encoder.learning.evaluation.data_set import DataSet
from encoder.learning.evaluation.methods import OF_A_CHECKPOINT, TRAINED_HERE, Methods, Name, available
from encoder.learning.evaluation.model_vectors import ModelVectors
from encoder.learning.evaluation.table import Table
from encoder.learning.moments import moments
from encoder.learning.sequences import recurrent
from encoder.learning.tasks.rows import Split
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from tests.support.small_data_set import MODALITIES, QUESTIONS, data_set
from tests.support.windows import DIM

pytest.importorskip("sklearn")
pytest.importorskip("lightgbm")

CHEAP = [name for name in Name if name not in (*OF_A_CHECKPOINT, *TRAINED_HERE, Name.RANDOM)]


def nothing(done: float, text: str) -> None:
    """Progress."""


@pytest.fixture(scope="module")
def data() -> DataSet:
    return data_set()


@pytest.fixture(scope="module")
def encoder() -> UserEncoder:
    return UserEncoder(ModelSettings(device="cpu", kv_pool_bytes=0, checkpoint="none"), MODALITIES, {}, DIM)


@pytest.fixture(scope="module")
def judged(data: DataSet) -> tuple[Methods, Table]:
    methods = Methods(data, CHEAP, trained=None, seeded=None)
    return methods, methods.table(nothing)


def test_what_there_is_depends_on_data_and_checkpoint(data: DataSet) -> None:
    assert available(data, trained=True) == list(Name)
    assert not {*available(data, trained=False)} & {*OF_A_CHECKPOINT}


def test_methods_without_a_model(judged: tuple[Methods, Table]) -> None:
    table = judged[1]
    assert list(table.methods) == CHEAP
    assert table.methods["text_pool"].auc["tea"] > 0.85  # the texts tell
    assert table.methods["lightgbm"].columns == 2
    assert table.methods["lightgbm_long"].columns == 4
    assert table.differences["lightgbm_long", "lightgbm"].keys() == {"goes", "tea", "mean"}


def test_a_models_methods(data: DataSet, encoder: UserEncoder) -> None:
    names = [Name.LIGHTGBM, Name.RANDOM, *OF_A_CHECKPOINT]
    methods = Methods(data, names, trained=encoder, seeded=encoder)
    table = methods.table(nothing)
    assert {*table.methods} == {*names}
    assert table.methods["random"].auc == table.methods["query"].auc  # the same model here
    assert table.methods["query"].auc["tea"] > 0.6
    assert table.methods["zero_shot"].columns == 1
    assert table.methods["stacked"].columns == 130
    assert table.to_dict()["mean"]["query"]["columns"] == 128
    seeds = variations.seeds(methods, table, "one", {"two": encoder}, nothing)
    assert {*seeds} == {*OF_A_CHECKPOINT}
    assert seeds["query"]["one"].auc == seeds["query"]["two"].auc
    asked = variations.instructions(methods, table, nothing)
    assert {*asked} == {Name.QUERY, Name.ZERO_SHOT}
    assert list(asked["query"]) == list(variations.INSTRUCTIONS)
    assert asked["query"]["own"].auc == pytest.approx(table.methods["query"].auc)
    assert asked["zero_shot"]["own"].scores["tea"] == pytest.approx(table.methods["zero_shot"].scores["tea"], abs=1e-5)
    assert asked["zero_shot"]["another's"].scores["tea"] != pytest.approx(asked["zero_shot"]["own"].scores["tea"])


def test_networks_trained_here(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "COLES_STEPS", 20)
    monkeypatch.setattr(recurrent, "COLES_USERS", 24)
    methods = Methods(data, list(TRAINED_HERE), trained=None, seeded=None)
    table = methods.table(nothing)
    assert table.methods["coles"].columns == 128
    assert table.methods["coles"].auc["tea"] > 0.6
    assert table.methods["gru"].auc["tea"] > 0.75
    fresh = variations.freshness(methods, table, nothing)  # by the same networks
    assert fresh["coles"]["0"].mean_auc == pytest.approx(table.methods["coles"].mean_auc, abs=1e-3)
    assert fresh["gru"]["0"].mean_auc == pytest.approx(table.methods["gru"].mean_auc, abs=1e-3)


def test_vectors_are_those_of_each_rows_own_question(data: DataSet, encoder: UserEncoder) -> None:
    asked = moments(data.tasks)
    vectors = ModelVectors(encoder, data.tasks, asked, QUESTIONS)
    gather(data.windows, asked, [vectors])
    task, row = data.tasks[1], 7
    window = data.windows.at(int(task.users[row]), int(task.now[row])).at(int(task.now[row]))
    encoder.add_scenario("alone", ScenarioSettings(query=QUESTIONS[int(task.asks[row])].query))
    alone = encoder.encode_from_scratch([window], ["alone"])[0, 0]
    found = vectors.of("tea")
    np.testing.assert_allclose(found[row], alone, atol=1e-5)
    assert found.shape == (len(task.users), 128)
    yes, no = encoder.encode_texts([*QUESTIONS[1].yes, *QUESTIONS[1].no])
    assert int(task.asks[row]) == 1
    assert vectors.zero_shot("tea")[row, 0] == pytest.approx(float(alone @ (yes - no)), abs=1e-5)


def test_a_pool_is_the_mean_of_the_windows_rows(data: DataSet) -> None:
    asked = moments(data.tasks)
    pool = TextPool(data.windows, len(asked.users))
    gather(data.windows, asked, [pool])
    window = data.windows.at(int(asked.users[5]), int(asked.now[5]))
    rows = np.concatenate([m.vectors for m in window.modalities.values()]).astype(np.float32)
    np.testing.assert_allclose(pool.columns[5], rows.mean(axis=0), atol=1e-6)


def test_age_and_noise_are_read_by_what_was_fitted_on_fresh_rows(judged: tuple[Methods, Table], data: DataSet) -> None:
    methods, table = judged
    fresh = variations.freshness(methods, table, nothing)
    noisy = variations.noise(methods, table, nothing)
    assert list(fresh["text_pool"]) == ["0", "1", "7", "28"]
    assert fresh["text_pool"]["0"].auc == table.methods["text_pool"].auc == noisy["text_pool"]["0"].auc
    assert noisy["text_pool"]["0.5"].mean_auc < noisy["text_pool"]["0"].mean_auc
    test = {task.name: int((task.split == Split.TEST).sum()) for task in data.tasks}
    assert {name: len(scores) for name, scores in fresh["text_pool"]["28"].scores.items()} == test
