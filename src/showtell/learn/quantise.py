"""A bundle and pictures -> the bundle with the decoder's large matrices in eight bits.

A word costs two or three products with large matrices, and on a CPU the time it takes to fetch them. Weights get a
scale for each column; what they are multiplied with gets one fixed scale, from what is seen on pictures. So a caption
does not depend on the pictures beside it, and sums of integers are the same in every batch. A table that words are
looked up in, and nothing else, gets a scale for each row.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from showtell.bundle import Bundle
from showtell.captioner import Runtime
from showtell.decoding import Arrays, SearchOptions, StepOutput, search
from showtell.learn.export import take_out

_LEAST = 1 << 16  # numbers of a matrix that is worth it
# Seven bits of the eight: where a processor has no instruction for these products, pairs of them are added in 16 bits.
_HIGHEST = 63
_HIGHEST_OF_TABLE = 127
_BATCH = 16
_DOMAIN = "com.microsoft"  # ONNX Runtime's own operators: the product and what follows it in one
_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
_PLAIN: dict[str, dict[str, int]] = {"Gemm": {"transB": 1}, "MatMul": {}}


def quantise(
    bundle: Bundle, pixels: Sequence[NDArray[np.uint8]], options: SearchOptions, *, least: int = _LEAST
) -> Bundle:
    """The same captioner with the large matrices of `step` in eight bits; the bundle's weights must be float32.

    Args:
        pixels: Pictures to caption, as the network gets them, for the range of what the matrices are multiplied with.
        least: Numbers of a matrix that is quantised.
    """
    model = onnx.load_model_from_string(bundle.graphs["step"])
    del model.graph.value_info[:]  # shapes of what will not be there
    large = _large_products(model.graph, bundle, least)
    tables = _large_tables(model.graph, bundle, least)
    ranges = _find_ranges(bundle, model, {node.input[0] for node in large.values()}, pixels, options)
    weights = dict(bundle.weights)
    nodes, initialisers, quantised = [], [], set()
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            (name, tokens), made = node.input, node.output[0]
            table_VX = bundle.weights[f"step/{name}"]
            steps_V1 = np.maximum(np.abs(table_VX).max(1, keepdims=True), 1e-12) / _HIGHEST_OF_TABLE
            stored = _constant(f"{name}.int8", np.rint(table_VX / steps_V1).astype(np.int8))
            weights[f"step/{name}.int8"] = take_out(stored)
            initialisers += [stored, _constant(f"{name}.scale", steps_V1.astype(np.float32))]
            for part in ("int8", "scale"):
                nodes.append(helper.make_node("Gather", [f"{name}.{part}", tokens], [f"{made}.row.{part}"]))
            nodes.append(helper.make_node("Cast", [f"{made}.row.int8"], [f"{made}.row"], to=onnx.TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"{made}.row", f"{made}.row.scale"], [made]))
            continue
        if node.output[0] not in large:
            nodes.append(node)
            continue
        (given, name, *bias), made = node.input, node.output[0]
        scale, zero = _scale(*ranges[given])
        if given not in quantised:
            quantised.add(given)
            settings = [_constant(f"{given}.scale", np.float32(scale)), _constant(f"{given}.zero", np.uint8(zero))]
            initialisers += settings
            nodes.append(
                helper.make_node("QuantizeLinear", [given, *(one.name for one in settings)], [f"{given}.int8"])
            )
        matrix_KN = bundle.weights[f"step/{name}"]
        matrix_KN = matrix_KN.T if node.op_type == "Gemm" else matrix_KN
        steps_N = np.maximum(np.abs(matrix_KN).max(0), 1e-12) / _HIGHEST
        stored = _constant(f"{name}.int8", np.rint(matrix_KN / steps_N).astype(np.int8))
        weights[f"step/{name}.int8"] = take_out(stored)
        initialisers += [stored, _constant(f"{name}.scale", steps_N.astype(np.float32))]
        scales = [f"{given}.scale", f"{name}.scale", f"{given}.zero"]
        product = [f"{given}.int8", f"{name}.int8", *scales, *(["", *bias] if bias else [])]
        nodes.append(helper.make_node("MatMulIntegerToFloat", product, [made], domain=_DOMAIN))
    large_names = tables | {node.input[1] for node in large.values()}
    replaced = large_names - {name for node in nodes for name in node.input}
    weights = {name: array for name, array in weights.items() if name.removeprefix("step/") not in replaced}
    initialisers += [one for one in model.graph.initializer if one.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initialisers)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    graphs = {**bundle.graphs, "step": model.SerializeToString(deterministic=True)}
    return replace(bundle, graphs=graphs, weights=weights)


def _large_products(graph: Any, bundle: Bundle, least: int) -> dict[str, Any]:
    """The products of something with a large matrix, by the name of what comes out.

    Words may be looked up in the matrix too (tied words: as they are, in float); no other product may use it.
    """
    used = Counter(name for node in graph.node if node.op_type != "Gather" for name in node.input)
    found = {}
    for node in graph.node:
        plain = _PLAIN.get(node.op_type)
        if plain is None or _DEFAULTS | _settings(node) != _DEFAULTS | plain:
            continue
        matrix = bundle.weights.get(f"step/{node.input[1]}")
        if matrix is not None and matrix.ndim == 2 and matrix.size >= least and used[node.input[1]] == 1:
            found[node.output[0]] = node
    return found


def _settings(node: Any) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _large_tables(graph: Any, bundle: Bundle, least: int) -> set[str]:
    """The large matrices in which words are looked up, and which nothing else uses."""
    used = Counter(name for node in graph.node for name in node.input)
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather" and _settings(node) == {"axis": 0}}
    matrices = {name: bundle.weights.get(f"step/{name}") for name in looked_up if used[name] == 1}
    return {
        name for name, matrix in matrices.items() if matrix is not None and matrix.ndim == 2 and matrix.size >= least
    }


class _Watching(Runtime):
    """A runtime that remembers the lowest and the highest of some tensors of `step`."""

    def __init__(self, bundle: Bundle, tensors: set[str]) -> None:
        super().__init__(bundle)
        self.ranges = dict.fromkeys(sorted(tensors), (0.0, 0.0))  # 0 is a number that must be exact

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        given = {"tokens": tokens_N, **memory, **state, "best": np.ones(1, np.int64)}
        inner = [name for name in self.ranges if name not in given]
        seen = {**given, **dict(zip(inner, self._sessions["step"].run(inner, given), strict=True))}
        for name, (low, high) in self.ranges.items():
            self.ranges[name] = min(low, float(seen[name].min())), max(high, float(seen[name].max()))
        return super().step(tokens_N, memory, state, best)


def _find_ranges(
    bundle: Bundle, model: Any, tensors: set[str], pixels: Sequence[NDArray[np.uint8]], options: SearchOptions
) -> dict[str, tuple[float, float]]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outer = {one.name for one in (*watched.graph.input, *watched.graph.output)}
    for name in sorted(tensors - outer):
        watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    graphs = {**bundle.graphs, "step": watched.SerializeToString(deterministic=True)}
    runtime = _Watching(replace(bundle, graphs=graphs), tensors)
    for begin in range(0, len(pixels), _BATCH):
        search(runtime, runtime.encode(np.stack(pixels[begin : begin + _BATCH])), options)
    return runtime.ranges


def _scale(low: float, high: float) -> tuple[float, int]:
    """The step between two of 256 numbers that reach from low to high, and which of them is 0."""
    step = max(high - low, 1e-12) / 255
    return step, round(-low / step)


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)
