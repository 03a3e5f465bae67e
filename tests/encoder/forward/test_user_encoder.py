"""Incremental equals from scratch, in any batch and with any pool; and both equal stock transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoder.forward.attention import grouped
from encoder.forward.forward import user_states
from encoder.forward.kv_pool import KvPool, PoolStats
from encoder.forward.plan import additive
from encoder.forward.user_encoder import UserEncoder
from encoder.forward.user_tokens import prepare
from encoder.model.settings import Layout, ModelSettings
from store.base.errors import ConfigError, NotFoundError, WeightsError
from store.base.settings import ModalitySettings, ScenarioSettings
from store.window.memory import BLOCK_MS, Block, Memory
from store.window.user_window import UserWindow
from tests.support import naive_encoder
from tests.support.windows import DIM, MODALITIES, START_MS, Row, random_rows, window

DAY_MS = 86_400_000
NAMES = ["churn", "credit_risk", "milk"]
SCENARIOS = {"churn": ScenarioSettings(query="Will this user stop coming in the next month?")}


def assert_equal(got: NDArray[np.float32], wanted: NDArray[np.float32], *, relative: float = 1e-4) -> None:
    assert got.shape == wanted.shape
    if got.size:
        error = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
        cosine = (got * wanted).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert error.max() <= relative, f"relative error {error.max():.1e}"
        assert cosine.min() >= 0.9999


OURS: tuple[Layout, ...] = ("compiled", "chunked")


@pytest.fixture(scope="module", params=OURS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def tiny(tiny: UserEncoder, layout: Layout) -> UserEncoder:
    return tiny.with_layout(layout)


@pytest.fixture(scope="module")
def small_pool(layout: Layout) -> UserEncoder:
    """About 5 % of what the users of these tests need."""
    return UserEncoder(
        ModelSettings(device="cpu", kv_pool_bytes=900_000, layout=layout, checkpoint="none"), MODALITIES, SCENARIOS, DIM
    )


@pytest.fixture(scope="module")
def causal() -> UserEncoder:
    return UserEncoder(ModelSettings(device="cpu", layout="causal", checkpoint="none"), MODALITIES, SCENARIOS, DIM)


def stats(encoder: UserEncoder) -> PoolStats:
    assert encoder.pool is not None
    return encoder.pool.stats


def check_integrity(pool: KvPool | None) -> None:
    """Every page is free or held once."""
    assert pool is not None
    held = [page.index for pages in pool._users.values() for page in pages.values()]
    assert sorted(held + pool._free) == list(range(pool.pages)), "a KV page is lost or held twice"


@pytest.mark.parametrize("count", [0, 1, 150])
def test_our_layouts_agree_with_plain_transformers(tiny: UserEncoder, layout: Layout, count: int) -> None:
    one = window("u", random_rows(3, count))
    naive = naive_encoder.chunked(tiny, one, NAMES, MODALITIES, compiled=layout == "compiled")
    assert_equal(tiny.encode_from_scratch([one], NAMES)[0], naive, relative=1e-3)


@pytest.mark.parametrize("count", [0, 1, 150])
def test_causal_layout_agrees_with_plain_transformers(causal: UserEncoder, count: int) -> None:
    one = window("u", random_rows(3, count))
    naive = naive_encoder.causal(causal, one, ["churn"], MODALITIES)
    assert_equal(causal.encode([one, window("other", random_rows(4, 30))], ["churn"])[0], naive)


def test_embeddings_are_unit_length_and_depend_on_user_and_scenario(tiny: UserEncoder) -> None:
    users = [window(f"u{i}", random_rows(i, 40)) for i in range(3)]
    got = tiny.encode_from_scratch(users, NAMES)
    assert got.shape == (3, 3, 128)
    assert np.allclose(np.linalg.norm(got, axis=-1), 1, atol=1e-5)
    flat = got.reshape(9, 128)
    assert (flat @ flat.T - np.eye(9)).max() < 0.9999
    assert tiny.encode([], NAMES).shape == (0, 3, 128)
    assert tiny.encode(users, []).shape == (3, 0, 128)


def test_batch_and_order_do_not_matter(tiny: UserEncoder) -> None:
    users = [window(f"u{i}", random_rows(i, 30 * i)) for i in range(6)]
    together = tiny.encode_from_scratch(users, NAMES)
    alone = np.stack([tiny.encode_from_scratch([user], [name])[0, 0] for user in users for name in NAMES])
    assert_equal(together, alone.reshape(together.shape))
    assert_equal(together[::-1, ::-1], tiny.encode(users[::-1], NAMES[::-1]))
    before = random_rows(2, 60)
    after = [row._replace(seed=row.seed + 1) for row in before]
    twice = [window("u2", before), users[3], window("u2", after)]  # one user at two moments, in one call
    assert_equal(tiny.encode(twice, NAMES), tiny.encode_from_scratch(twice, NAMES))


def test_hit_partial_and_miss(tiny: UserEncoder) -> None:
    rows = random_rows(11, 120)
    tiny.encode([window("v", rows)], NAMES)
    base, tail = stats(tiny), tiny.tokens_of(NAMES)
    assert tiny.work.tokens == 120 + tail

    def update(changed: list[Row]) -> tuple[int, int, int]:
        before = stats(tiny)
        one = window("v", changed)
        assert_equal(tiny.encode([one], NAMES), tiny.encode_from_scratch([one], NAMES))
        tiny.encode([one], NAMES)
        assert tiny.work.new_tokens == 0
        after = stats(tiny)
        return after.hit - before.hit, after.partial - before.partial, after.miss - before.miss

    hits, partial, miss = update([*rows, Row("bill", START_MS + 91 * DAY_MS, "new", 5)])
    assert partial + miss == 1
    late = Row("bill", START_MS + 45 * DAY_MS, "late", 6)
    assert update([*rows, late])[0] >= hits - 6
    oldest = min((row for row in rows if row.modality == "bill"), key=lambda row: row.ts)
    assert update([row for row in rows if row is not oldest])[0] >= hits - 8
    assert base.miss > 0
    check_integrity(tiny.pool)


def test_an_append_computes_only_what_is_new(tiny: UserEncoder) -> None:
    rows = [Row("bill", START_MS + i * DAY_MS // 10, f"bill-{i}", i) for i in range(300)]
    tiny.encode([window("w", rows[:100])], NAMES)
    for n in range(101, 300, 7):
        tiny.encode([window("w", rows[: n - 7 + 7])], NAMES)
        assert tiny.work.new_tokens == (1 if n == 101 else 7)
    assert tiny.work.forwards == 1


def test_a_user_who_is_looked_at_again_in_silence_costs_a_tail(tiny: UserEncoder) -> None:
    user = window("silent", random_rows(7, 120))
    at_once = tiny.encode([user], NAMES)
    later = user.at(user.as_of + 14 * DAY_MS)
    got = tiny.encode([later], NAMES)
    assert tiny.work.new_tokens == 0
    assert tiny.work.tokens == tiny.tokens_of(NAMES)
    assert_equal(got, tiny.encode_from_scratch([later], NAMES))
    assert (got * at_once).sum(-1).max() < 0.9999, "time that passes is heard"


def test_what_is_remembered_is_heard(tiny: UserEncoder) -> None:
    user = window("old", random_rows(8, 90))
    bills = user.modalities["bill"]
    block = Block(40, (300_000, 0), (900_000, 0), (40, 0))
    memory = Memory(40, START_MS - 200 * DAY_MS, {(START_MS - 200 * DAY_MS) // BLOCK_MS: block})
    changed = replace(bills, summary=bills.summary._replace(memory=memory))
    remembered = UserWindow("old", user.modalities | {"bill": changed})
    got = tiny.encode([remembered], NAMES)
    assert_equal(got, tiny.encode_from_scratch([remembered], NAMES))
    assert np.abs(got - tiny.encode([user], NAMES)).max(-1).min() > 1e-4


Step = tuple[str, int, int]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Steps on three users: (what, user, number)."""
    kinds = ["append", "append", "burst", "late", "expire", "change", "evict", "scenario", "encode", "encode", "vanish"]
    return draw(
        st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 2), st.integers(0, 10**6)), min_size=3, max_size=25)
    )


def replay(encoder: UserEncoder, steps: list[Step]) -> Iterator[tuple[list[UserWindow], list[str]]]:
    """Apply steps to sets of rows; yields the users to encode and the scenarios asked for."""
    users: list[list[Row]] = [[], [], []]
    scenarios = ["churn"]
    now = START_MS
    for count, (what, user, number) in enumerate(steps):
        rows = users[user]
        modality = list(MODALITIES)[number % len(MODALITIES)]
        now += number % 7200 * 1000
        if what == "append":
            rows.append(Row(modality, now, f"e{count}", number))
        elif what == "burst":
            rows += [Row(modality, now + i, f"e{count}-{i}", number + i) for i in range(number % 60)]
        elif what == "late":
            rows.append(Row(modality, START_MS - number, f"e{count}", number))
        elif what == "expire" and rows:
            rows.remove(min(rows, key=lambda row: row.ts))
        elif what == "change" and rows:
            at = number % len(rows)
            rows[at] = rows[at]._replace(seed=number)  # the same event id with other content
        elif what == "vanish":
            rows.clear()
        elif what == "evict":
            encoder.forget(f"user{user}")
        elif what == "scenario":
            name = f"s{number % 3}"
            if name in scenarios:
                scenarios.remove(name)
                encoder.remove_scenario(name)
            else:
                scenarios.append(name)
                encoder.add_scenario(name, ScenarioSettings(query=f"question {number}"))
        if what == "encode":
            chosen = [i for i in range(3) if (number >> i) & 1 or i == user]
            yield [window(f"user{i}", users[i]) for i in chosen], list(scenarios)
    yield [window(f"user{i}", rows) for i, rows in enumerate(users)], list(scenarios)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_any_history_equals_from_scratch(tiny: UserEncoder, steps: list[Step]) -> None:
    for users, scenarios in replay(tiny, steps):
        assert_equal(tiny.encode(users, scenarios), tiny.encode_from_scratch(users, scenarios))
        check_integrity(tiny.pool)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_any_history_with_a_pool_of_few_pages(small_pool: UserEncoder, steps: list[Step]) -> None:
    for users, scenarios in replay(small_pool, steps):
        assert_equal(small_pool.encode(users, scenarios), small_pool.encode_from_scratch(users, scenarios))
        check_integrity(small_pool.pool)


def test_a_pool_of_five_percent_gives_the_same_answers(small_pool: UserEncoder) -> None:
    histories = [random_rows(i, 10 * (i + 1)) for i in range(40)]
    users = [window(f"u{i}", rows) for i, rows in enumerate(histories)]
    pool = small_pool.pool
    assert pool is not None
    needed = sum(-(-len(m.ts) // 15) for user in users for m in user.modalities.values()) * pool.page_bytes
    assert 0.03 < pool.pages * pool.page_bytes / needed < 0.07
    wanted = small_pool.encode_from_scratch(users, ["churn"])
    before = stats(small_pool)
    assert_equal(small_pool.encode(users, ["churn"]), wanted)
    for user, vector in zip(users, wanted, strict=True):  # one at a time, each twice: the second finds its pages
        small_pool.encode([user], ["churn"])
        assert_equal(small_pool.encode([user], ["churn"])[0], vector)
    after = stats(small_pool)
    assert after.uncached > before.uncached, "some users have more chunks than the pool"
    assert after.hit > before.hit
    assert pool.used_bytes <= 900_000
    check_integrity(pool)


def test_no_pool_at_all(layout: Layout) -> None:
    none = UserEncoder(
        ModelSettings(device="cpu", kv_pool_bytes=0, layout=layout, checkpoint="none"), MODALITIES, SCENARIOS, DIM
    )
    users = [window(f"u{i}", random_rows(i, 50)) for i in range(3)]
    assert_equal(none.encode(users, ["churn"]), none.encode_from_scratch(users, ["churn"]))
    assert none.pool is None


@pytest.mark.parametrize("written", [False, True])
def test_a_failed_forward_leaves_no_wrong_page(
    tiny: UserEncoder, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    rows = random_rows(21, 100)
    tiny.encode([window("x", rows)], NAMES)
    changed = window("x", [*rows[:90], *[row._replace(seed=row.seed + 1) for row in rows[90:]]])
    run = tiny.model.backbone.run

    def fail(*args: object) -> None:
        if written:
            run(*args)  # type: ignore[arg-type]
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny.model.backbone, "run", fail)
        with pytest.raises(RuntimeError):
            tiny.encode([changed], NAMES)
    for one in (changed, window("x", rows), changed):
        assert_equal(tiny.encode([one], NAMES), tiny.encode_from_scratch([one], NAMES))


def test_query_heads_laid_end_to_end_are_the_same_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 5, 6, 8, generator=generator)
    k, v = torch.randn(2, 2, 9, 2, 8, generator=generator)
    mask = additive(torch.rand(2, 1, 5, 9, generator=generator) < 0.7, torch.float32)
    wanted = grouped(q, k, v, mask)
    assert torch.allclose(grouped(q, k, v, mask.repeat(1, 1, 3, 1)), wanted, atol=1e-6)


@pytest.mark.parametrize("other", ["own", "causal"])
def test_attention_in_parts_is_the_attention_under_one_mask(tiny: UserEncoder, other: str) -> None:
    """What a CPU runs against what a GPU and training run: no rows, one row, cached, extended and new chunks."""
    encoder = tiny if other == "own" else tiny.with_layout("causal")
    rows = [random_rows(50 + i, count) for i, count in enumerate([0, 1, 40, 300])]
    if encoder.pool is not None:
        encoder.encode([window(f"d{i}", own[: i * 90]) for i, own in enumerate(rows)], NAMES)
    users = [prepare(window(f"d{i}", own), MODALITIES, DIM) for i, own in enumerate(rows)]
    tail = encoder.tail(NAMES)
    assert tail is not None
    found = []
    for grad in (False, True):
        leases = None if encoder.pool is None else [encoder.pool.acquire(user) for user in users]
        with torch.set_grad_enabled(grad):
            found.append(user_states(encoder.model, users, leases, tail, encoder.pool).states.numpy())
    assert_equal(*found)


def test_the_same_weights_in_the_other_layout(tiny: UserEncoder, layout: Layout, causal: UserEncoder) -> None:
    other = tiny.with_layout("causal")
    assert other.model is tiny.model
    assert other.model_id("churn") == causal.model_id("churn") != tiny.model_id("churn")
    users = [window("u", random_rows(1, 30))]
    assert_equal(other.encode(users, ["churn"]), causal.encode(users, ["churn"]))
    back = other.with_layout(layout)
    assert back.pool is not tiny.pool
    assert back.model_id("churn") == tiny.model_id("churn")
    assert_equal(back.encode(users, ["churn"]), tiny.encode(users, ["churn"]))


def test_model_id_follows_what_changes_embeddings(tiny: UserEncoder, layout: Layout) -> None:
    basis = ModelSettings(device="cpu", kv_pool_bytes=0, layout=layout, checkpoint="none")
    other_seed = UserEncoder(basis.model_copy(update={"seed": 1}), MODALITIES, SCENARIOS, DIM)
    layouts = [tiny.with_layout(each).model_id("churn") for each in (*OURS, "causal")]
    ids = {*layouts, tiny.model_id("milk"), other_seed.model_id("churn")}
    assert len(ids) == 5
    again = UserEncoder(basis, MODALITIES, SCENARIOS, DIM)
    assert again.model_id("churn") == tiny.model_id("churn")
    fewer = {name: m for name, m in MODALITIES.items() if name != "search"}
    assert UserEncoder(basis, fewer, SCENARIOS, DIM).model_id("churn") != tiny.model_id("churn")
    assert not tiny.trained
    with pytest.raises(NotFoundError):
        tiny.model_id("unknown")
    with pytest.raises(NotFoundError):
        tiny.encode([], ["unknown"])


def test_a_prompt_changes_its_scenario_only(tiny: UserEncoder) -> None:
    users = [window("u", random_rows(1, 30))]
    before = tiny.encode(users, ["churn"])
    with_prompt = ScenarioSettings(query=SCENARIOS["churn"].query, prompt="tuned")
    with pytest.raises(WeightsError, match="tuned"):
        tiny.add_scenario("prompted", with_prompt)
    tiny.set_prompt("tuned", torch.full((4, tiny.model.backbone.hidden), 0.5))
    tiny.add_scenario("prompted", with_prompt)
    first = tiny.encode(users, ["churn", "prompted"])
    assert_equal(first[:, :1], before)
    assert np.abs(first[:, 1] - before[:, 0]).max() > 1e-3
    first_id = tiny.model_id("prompted")
    tiny.set_prompt("tuned", torch.full((2, tiny.model.backbone.hidden), -0.5))
    tiny.add_scenario("prompted", with_prompt)
    assert tiny.model_id("prompted") != first_id
    assert np.abs(tiny.encode(users, ["prompted"]) - first[:, 1:]).max() > 1e-3
    with pytest.raises(WeightsError, match="shape"):
        tiny.set_prompt("bad", torch.zeros(3, 5))
    tiny.remove_scenario("prompted")
    del tiny.model.prompts["tuned"]  # the layouts share their weights


def test_a_query_nobody_registered(tiny: UserEncoder) -> None:
    users = [window(f"u{i}", random_rows(i, 30)) for i in range(2)]
    anchor = tiny.anchor(SCENARIOS["churn"])
    assert anchor.id == tiny.model_id("churn")
    assert_equal(tiny.encode_anchors(users, [anchor]), tiny.encode(users, ["churn"]))


def test_adding_a_modality_leaves_the_other_parameters(tiny: UserEncoder) -> None:
    more = MODALITIES | {"extra": ModalitySettings(topic="x", numbers=("n",))}
    bigger = UserEncoder(ModelSettings(device="cpu", kv_pool_bytes=0, checkpoint="none"), more, SCENARIOS, DIM)
    ours, theirs = tiny.model.state_dict(), bigger.model.state_dict()
    shared = [name for name in ours if name in theirs]
    assert len(shared) >= len(theirs) - 20
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


def test_rows_of_unknown_modalities_are_ignored(tiny: UserEncoder) -> None:
    rows = random_rows(1, 40)
    stranger = MODALITIES | {"stranger": ModalitySettings(topic="x")}
    with_stranger = window("u", [*rows, Row("stranger", START_MS + 99 * DAY_MS, "s", 1)], stranger)
    assert_equal(tiny.encode([with_stranger], NAMES), tiny.encode_from_scratch([window("u", rows)], NAMES))


def test_semantic_tower(tiny: UserEncoder) -> None:
    texts = ["The user will buy milk.", "no", "The user will not come back."]
    got = tiny.encode_texts(texts)
    assert got.shape == (3, 128)
    assert_equal(got, np.concatenate([tiny.encode_texts([text]) for text in texts]))
    ids = tiny.model.tokenize(texts[0])
    with torch.no_grad():
        told = tiny.model.readout(torch.from_numpy(tiny._query_vectors.of(texts[0])))
        tokens = torch.cat([tiny.model.text_tokens(ids), told[None]])
        states = tiny.model.lm(inputs_embeds=tokens[None]).last_hidden_state
        assert_equal(got[0], tiny.model.embed(states[0, -1]).numpy())
    with pytest.raises(ValueError, match="no tokens"):
        tiny.encode_texts([""])


def test_gradients_reach_every_part(tiny: UserEncoder, layout: Layout) -> None:
    from encoder.forward import tail as tails

    trainable = UserEncoder(ModelSettings(device="cpu", kv_pool_bytes=0), MODALITIES, SCENARIOS, DIM).model
    trainable.requires_grad_(True)
    trainable.prompts["soft"] = torch.nn.Parameter(torch.randn(3, trainable.backbone.hidden))
    users = [prepare(window(f"u{i}", random_rows(i, 40)), MODALITIES, DIM) for i in range(2)]
    churn = trainable.text_tokens(trainable.tokenize("Churn?"))
    query, lead = tiny.anchor(SCENARIOS["churn"]).query, len(MODALITIES) + 1
    segment = torch.cat([trainable.prompts["soft"], churn, trainable.readout(query)[None]])
    if layout == "compiled":
        tail = tails.build_compiled(trainable.backbone, [segment], lead, [query])
    else:
        tail = tails.build([segment], lead, [query])
    states = user_states(trainable, users, None, tail, None).states
    trainable.embed(states).square().sum(-1).sub(states.mean(-1)).sum().backward()
    idle = [n for n, p in trainable.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert all(name.startswith(("lm.embed_tokens", "head.")) for name in idle)


def test_what_cannot_run_says_what_to_do(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WeightsError) as caught:
        UserEncoder(ModelSettings(preset="qwen2.5-0.5b"), MODALITIES, SCENARIOS, DIM)
    assert "model.path" in caught.value.action
    with pytest.raises(WeightsError) as caught:
        UserEncoder(ModelSettings(path=tmp_path), MODALITIES, SCENARIOS, DIM)
    assert caught.value.action
    if not torch.cuda.is_available():
        with pytest.raises(WeightsError, match="CUDA"):
            UserEncoder(ModelSettings(device="cuda"), MODALITIES, SCENARIOS, DIM)
    assert issubclass(WeightsError, ConfigError.__mro__[1])


def test_bfloat16_equals_from_scratch(layout: Layout) -> None:
    """The arithmetic of a GPU, on the CPU: pages in bfloat16, angles still exact."""
    half = UserEncoder(
        ModelSettings(device="cpu", dtype="bfloat16", layout=layout, checkpoint="none"), MODALITIES, SCENARIOS, DIM
    )
    rows = [random_rows(i, 40 * (i + 1)) for i in range(4)]
    half.encode([window(f"u{i}", own) for i, own in enumerate(rows)], ["churn"])
    users = [
        window(f"u{i}", [*own[3:], Row("bill", START_MS + 91 * DAY_MS, "new", i), Row("bill", START_MS, "late", i)])
        for i, own in enumerate(rows)
    ]
    got, wanted = half.encode(users, ["churn"]), half.encode_from_scratch(users, ["churn"])
    assert (got * wanted).sum(-1).min() >= 0.999
    exact = UserEncoder(
        ModelSettings(device="cpu", layout=layout, checkpoint="none"), MODALITIES, SCENARIOS, DIM
    ).encode(users, ["churn"])
    assert (got * exact).sum(-1).min() >= 0.995


@pytest.mark.slow
def test_qwen_type_directory_by_path(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Biases in q, k, v and a tied embedding: a small Qwen2 saved and loaded by path, all layouts against the twin."""
    from shutil import copy

    from transformers import Qwen2Config, Qwen2ForCausalLM

    from encoder.model import weights

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=30_522, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    copy(weights.minilm_dir() / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    one = window("u", random_rows(3, 80))
    paper = UserEncoder(ModelSettings(device="cpu", path=tmp_path, layout="causal"), MODALITIES, SCENARIOS, DIM)
    for layout in OURS:
        ours = paper.with_layout(layout)
        assert_equal(ours.encode([one], ["churn"]), ours.encode_from_scratch([one], ["churn"]))
        naive = naive_encoder.chunked(ours, one, ["churn"], MODALITIES, compiled=layout == "compiled")
        assert_equal(ours.encode([one], ["churn"])[0], naive, relative=1e-3)
    assert_equal(paper.encode([one], ["churn"])[0], naive_encoder.causal(paper, one, ["churn"], MODALITIES))


@pytest.mark.slow
def test_smollm2_incremental_equals_from_scratch() -> None:
    loaded = UserEncoder(ModelSettings(preset="smollm2-135m", device="cpu"), MODALITIES, SCENARIOS, DIM)
    rows = random_rows(5, 90)
    one = window("u", [*rows[4:], Row("bill", START_MS + 91 * DAY_MS, "new", 7), Row("bill", START_MS, "late", 8)])
    for layout in OURS:
        big = loaded.with_layout(layout)
        big.encode([window("u", rows)], ["churn"])
        got = big.encode([one], ["churn"])
        assert_equal(got, big.encode_from_scratch([one], ["churn"]))
        naive = naive_encoder.chunked(big, one, ["churn"], MODALITIES, compiled=layout == "compiled")
        assert_equal(got[0], naive, relative=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("preset", ["tiny", "smollm2-135m"])
def test_bfloat16_on_cuda_equals_from_scratch(preset: Literal["tiny"], layout: Layout) -> None:
    gpu = UserEncoder(ModelSettings(preset=preset, device="cuda", layout=layout), MODALITIES, SCENARIOS, DIM)
    rows = [random_rows(i, 40 * (i + 1)) for i in range(8)]
    gpu.encode([window(f"u{i}", own) for i, own in enumerate(rows)], ["churn"])
    users = [
        window(f"u{i}", [*own[3:], Row("bill", START_MS + 91 * DAY_MS, "new", i), Row("bill", START_MS, "late", i)])
        for i, own in enumerate(rows)
    ]
    got, wanted = gpu.encode(users, ["churn"]), gpu.encode_from_scratch(users, ["churn"])
    assert (got * wanted).sum(-1).min() >= 0.999
