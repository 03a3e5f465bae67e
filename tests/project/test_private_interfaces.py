"""What we take of other packages beyond what they promise: each still is what our code takes it for.

A package's upper bound in `pyproject.toml` is raised when this passes with the newer one.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import aiokafka.consumer.fetcher
import confluent_kafka
import faust.transport.consumer
import pytest
import torch
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, ConsumerRebalanceListener, Transport
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from packaging.requirements import Requirement
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, modeling_gguf_pytorch_utils
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from deploy.brokers import embedded

ROOT = Path(__file__).parents[2]
HALLS = ("store", "encoder", "stream", "deploy")


class Interface(NamedTuple):
    """`what` of `package` is relied on in `used_in`, for as long as `holds()`."""

    package: str
    what: str
    used_in: str
    holds: Callable[[], bool]


def sources() -> dict[str, str]:
    paths = (path for hall in HALLS for path in (ROOT / hall).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def mentions(function: Any, *names: str) -> bool:
    """Whether the function's own code reads or calls these names."""
    return set(names) <= {*function.__code__.co_names, *function.__code__.co_varnames}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _uvicorn() -> bool:
    made = mentions(H11Protocol.__init__, "conn", "connections", "transport", "cycle", "loop")
    cycle = mentions(RequestResponseCycle.__init__, "response_complete", "transport")
    closes = mentions(RequestResponseCycle.send, "transport", "close", "on_response")
    hooks = all(
        hasattr(H11Protocol, name)
        for name in ("on_response_complete", "send_400_response", "_unset_keepalive_if_required")
    )
    return made and cycle and closes and hooks


def _acknowledged() -> bool:
    consumer = faust.transport.consumer.Consumer
    kept = mentions(consumer.__init__, "_acked", "_acked_index", "_gap", "IntervalTree")
    return kept and hasattr(faust.transport.consumer.IntervalTree, "chop")


def _new_offset() -> bool:
    callers = (f for _, f in inspect.getmembers(faust.transport.consumer.Consumer, inspect.isfunction))
    return parameters(FaustConsumer._new_offset) == ["self", "tp"] and any(mentions(f, "_new_offset") for f in callers)


def _thread() -> bool:
    made = mentions(FaustConsumer.__init__, "_new_consumer_thread") or any(
        mentions(base.__init__, "_new_consumer_thread")
        for base in FaustConsumer.__mro__[1:-1]
        if "__init__" in vars(base)
    )
    return made and parameters(FaustConsumer._new_consumer_thread) == ["self"]


def _worker_consumer() -> bool:
    taken = parameters(AIOKafkaConsumerThread._create_worker_consumer) == ["self", "transport"]
    return taken and mentions(AIOKafkaConsumerThread._create_consumer, "_create_worker_consumer")


def _rebalance() -> bool:
    return all(
        mentions(getattr(ConsumerRebalanceListener, name), name) and hasattr(FaustConsumer, name)
        for name in ("on_partitions_revoked", "on_partitions_assigned")
    ) and parameters(FaustConsumer.on_partitions_assigned) == ["self", "assigned", "generation_id"]


def _getmany() -> bool:
    taken = parameters(FaustConsumer._getmany) == ["self", "active_partitions", "timeout"]
    asked = mentions(faust.transport.consumer.Consumer._wait_next_records, "_getmany", "_get_active_partitions")
    filters = mentions(aiokafka.consumer.fetcher.Fetcher.fetched_records, "partitions", "is_assigned")
    return taken and asked and filters and parameters(FaustConsumer.verify_event_path) == ["self", "now", "tp"]


def _flash() -> bool:
    schema = str(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default._schema)
    return schema == (
        "aten::_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0., "
        "bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)"
    )


def _scan_once() -> bool:
    scan = json.JSONDecoder().scan_once
    with pytest.raises(StopIteration):
        scan("", 0)
    return bool(scan('{"a": 1}x', 0) == ({"a": 1}, 8))


def _layers() -> bool:
    shape: dict[str, Any] = {
        "vocab_size": 4,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    parts = (
        *("embed_tokens.weight", "norm.weight", "norm.variance_epsilon"),
        *("rotary_emb.inv_freq", "rotary_emb.attention_scaling", "config.hidden_size"),
        *(
            "layers.0.input_layernorm.weight",
            "layers.0.post_attention_layernorm.weight",
            "layers.0.mlp.config.hidden_act",
        ),
        *(f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    )
    for lm in (LlamaModel(LlamaConfig(**shape)), Qwen2Model(Qwen2Config(**shape))):
        assert {"rope_type", "rope_theta"} <= lm.config.rope_parameters.keys()
        for path in parts:
            found: Any = lm
            for name in path.split("."):
                found = found[int(name)] if name.isdigit() else getattr(found, name)
    return True


def _gguf() -> bool:
    load = modeling_gguf_pytorch_utils.load_gguf_checkpoint
    return hasattr(modeling_gguf_pytorch_utils, "tqdm") and mentions(load, "gguf", "GGUFReader", "tqdm")


def _h11_protocol() -> bool:
    kept = mentions(H11Protocol.__init__, "transport", "connections", "cycle", "conn", "loop", "flow")
    told = {"_unset_keepalive_if_required": [], "on_response_complete": [], "send_400_response": ["msg"]}
    asked = mentions(H11Protocol.handle_events, "send_400_response", "on_response_complete", "RequestResponseCycle")
    shown = mentions(RequestResponseCycle.__init__, "response_complete")
    taken = all(parameters(getattr(H11Protocol, name)) == ["self", *names] for name, names in told.items())
    return kept and asked and shown and taken


def _error_codes() -> bool:
    names = {name for text in sources().values() for name in re.findall(r"KafkaError\.(_[A-Z_]+)", text)}
    return bool(names) and all(hasattr(confluent_kafka.KafkaError, name) for name in names)


def _mock_cluster() -> bool:
    names = re.findall(r'"(rd_kafka_\w+)"', sources()["deploy/brokers/embedded.py"])
    return bool(names) and all(hasattr(embedded.library(), name) for name in names)


FAUST, APP = "faust-streaming", "stream/processor/faust_app.py"
INTERFACES = (
    Interface(FAUST, "Consumer._acked, ._acked_index, ._gap", APP, _acknowledged),
    Interface(FAUST, "Consumer._new_offset(tp), asked before a commit", APP, _new_offset),
    Interface(FAUST, "Consumer._new_consumer_thread()", APP, _thread),
    Interface(FAUST, "AIOKafkaConsumerThread._create_worker_consumer(transport)", APP, _worker_consumer),
    Interface(FAUST, "Consumer.on_partitions_revoked, .on_partitions_assigned", APP, _rebalance),
    Interface(FAUST, "Consumer._getmany(active_partitions, timeout), .verify_event_path(now, tp)", APP, _getmany),
    Interface(FAUST, "Transport.Consumer", APP, lambda: mentions(Transport.create_consumer, "Consumer")),
    Interface(
        "aiokafka",
        "AIOKafkaConsumer._fetch_max_wait_ms, read at the start",
        APP,
        lambda: mentions(aiokafka.AIOKafkaConsumer.start, "_fetch_max_wait_ms"),
    ),
    Interface("confluent-kafka", "KafkaError's codes of librdkafka", "stream/kafka/patience.py", _error_codes),
    Interface("confluent-kafka", "librdkafka's mock cluster", "deploy/brokers/embedded.py", _mock_cluster),
    Interface("uvicorn", "H11Protocol and its cycle", "store/http/wire/connection.py", _uvicorn),
    Interface("torch", "the flash attention of CPUs", "encoder/forward/split_attention.py", _flash),
    Interface("python", "json.JSONDecoder.scan_once", "stream/events/decode.py", _scan_once),
    Interface("transformers", "the layers of Llama and Qwen2", "encoder/model/backbone.py", _layers),
    Interface("transformers", "load_gguf_checkpoint's reader and bar", "encoder/model/presets.py", _gguf),
    Interface("uvicorn", "H11Protocol, to be derived from", "store/http/wire/connection.py", _h11_protocol),
    Interface("gguf", "GGUFReader, looked up at each use", "encoder/model/presets.py", _gguf),
)


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda i: f"{i.package}: {i.what}")
def test_it_is_what_we_take_it_for(interface: Interface) -> None:
    package, what, used_in, holds = interface
    try:
        broken = None if holds() else "it is not"
    except (AttributeError, KeyError, TypeError, AssertionError) as exc:
        broken = repr(exc)
    installed = "" if package == "python" else version(package)
    assert broken is None, f"{package} {installed}: {what}, which {used_in} relies on, changed: {broken}"


@pytest.mark.parametrize("package", sorted({interface.package for interface in INTERFACES}))
def test_its_package_is_bounded_above(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {(r := Requirement(line)).name: r.specifier for line in project["dependencies"]}
    text = project["requires-python"] if package == "python" else str(bounds[package])
    assert "<" in text


def test_whatever_reaches_into_another_package_is_listed() -> None:
    reaching = {
        path
        for path, text in sources().items()
        for line in text.splitlines()
        if "noqa: SLF001" in line and "KafkaError._" not in line and "one of us" not in line
    }
    assert reaching <= {interface.used_in for interface in INTERFACES}
