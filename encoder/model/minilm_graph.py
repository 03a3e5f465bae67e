"""all-MiniLM-L6-v2 as an ONNX graph over its own safetensors: what the text encoder runs, without torch.

Importing torch costs a process 600 MB and transformers' BERT another 190 MB; this runs in 100 MB beside the weights.
Architecture: BERT (arXiv 1810.04805) with post-layer norms; its mask is left out, since a batch holds one length only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from safetensors import safe_open

_OPSET, _IR = 20, 9
"""The first opset with Gelu, and the file format of its time."""
_INLINE_BYTES = 1024
"""Larger tensors are handed to the session as they are, instead of through the serialised graph."""
_EMBEDDINGS = "embeddings."

Tensors = dict[str, NDArray[Any]]


class MiniLM:
    """The model, loaded. Thread-safe: a call keeps nothing."""

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        """Build and optimise the graph.

        Args:
            directory: with `model.safetensors` and `config.json`.
            threads: of one call.
        """
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        nodes = _Nodes(config)
        tensors = _read(directory / "model.safetensors", nodes, config)
        self._positions = tensors.pop(f"{_EMBEDDINGS}position_embeddings.weight")
        large = {name: tensor for name, tensor in tensors.items() if tensor.nbytes > _INLINE_BYTES}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = False  # an arena keeps what the largest batch ever needed
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in large.values()]
        options.add_external_initializers(list(large), values)
        model = _model(nodes.nodes, tensors, large.keys(), config["hidden_size"])
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def mean_states(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Token ids (texts, length) → mean of the last layer's states (texts, dim)."""
        inputs = {"ids": ids, "positions": self._positions[: ids.shape[1]]}
        states: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return states


class _Nodes:
    """The graph's nodes, made in order of the computation; `ids` and `positions` are its inputs, `mean` its output."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.nodes: list[NodeProto] = []
        self._epsilon = config["layer_norm_eps"]
        words = self._add("Gather", f"{_EMBEDDINGS}word_embeddings.weight", "ids")
        typed = self._add("Add", words, f"{_EMBEDDINGS}token_type_embeddings.weight")
        states = self._norm(self._add("Add", typed, "positions"), f"{_EMBEDDINGS}LayerNorm")
        for layer in range(config["num_hidden_layers"]):
            states = self._layer(states, f"encoder.layer.{layer}.")
        self.nodes.append(helper.make_node("ReduceMean", [states, "tokens_axis"], ["mean"], keepdims=0))

    def _layer(self, states: str, at: str) -> str:
        attention, output = f"{at}attention.self.", f"{at}attention.output."
        query = self._heads(states, f"{attention}query", [0, 2, 1, 3])
        key = self._heads(states, f"{attention}key", [0, 2, 3, 1])
        value = self._heads(states, f"{attention}value", [0, 2, 1, 3])
        scores = self._add("Mul", self._add("MatMul", query, key), "scale")
        mixed = self._add("MatMul", self._add("Softmax", scores, axis=-1), value)
        joined = self._add("Reshape", self._add("Transpose", mixed, perm=[0, 2, 1, 3]), "joined_shape")
        states = self._norm(self._add("Add", self._linear(joined, f"{output}dense"), states), f"{output}LayerNorm")
        wide = self._add("Gelu", self._linear(states, f"{at}intermediate.dense"))
        narrow = self._linear(wide, f"{at}output.dense")
        return self._norm(self._add("Add", narrow, states), f"{at}output.LayerNorm")

    def _heads(self, states: str, name: str, order: list[int]) -> str:
        return self._add("Transpose", self._add("Reshape", self._linear(states, name), "heads_shape"), perm=order)

    def _linear(self, states: str, name: str) -> str:
        return self._add("Add", self._add("MatMul", states, f"{name}.weight"), f"{name}.bias")

    def _norm(self, states: str, name: str) -> str:
        return self._add("LayerNormalization", states, f"{name}.weight", f"{name}.bias", epsilon=self._epsilon, axis=-1)

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _read(path: Path, nodes: _Nodes, config: dict[str, Any]) -> Tensors:
    """Every tensor that the nodes name; matrices of linear layers transposed, as MatMul wants them."""
    heads, dim = config["num_attention_heads"], config["hidden_size"]
    tensors: Tensors = {
        "heads_shape": np.array([0, 0, heads, dim // heads]),
        "joined_shape": np.array([0, 0, dim]),
        "scale": np.array((dim // heads) ** -0.5, np.float32),
        "tokens_axis": np.array([1]),
    }
    inputs = {name for node in nodes.nodes for name in node.input}
    with safe_open(path, "numpy") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            if name == f"{_EMBEDDINGS}position_embeddings.weight":
                tensors[name] = file.get_tensor(name)
            elif name == f"{_EMBEDDINGS}token_type_embeddings.weight":
                tensors[name] = file.get_tensor(name)[0]
            elif name in inputs:
                tensor = file.get_tensor(name)
                linear = tensor.ndim == 2 and not name.startswith(_EMBEDDINGS)
                tensors[name] = np.ascontiguousarray(tensor.T) if linear else tensor
    return tensors


def _model(nodes: list[NodeProto], tensors: Tensors, external: Any, dim: int) -> ModelProto:
    initializers = []
    for name, tensor in tensors.items():
        proto = TensorProto(name=name, dims=tensor.shape, data_type=helper.np_dtype_to_tensor_dtype(tensor.dtype))
        if name in external:
            proto.data_location = TensorProto.EXTERNAL
            proto.external_data.add(key="location", value="memory")
        else:
            proto.raw_data = tensor.tobytes()
        initializers.append(proto)
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
        helper.make_tensor_value_info("positions", TensorProto.FLOAT, ["tokens", dim]),
    ]
    output = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["texts", dim])
    graph = helper.make_graph(nodes, "all-minilm-l6-v2", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
