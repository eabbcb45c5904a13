"""showtell, and what its speed is held against: its encoder alone, and the machine's peak.

captions     the whole path, every caption of the same number of words as the other captioners'
as it ends   the same search, captions ending where the model ends them, at most as long as its default
greedy, beam 5   captions as they end, by those searches
encoder      the encoder's graph alone, on pictures that were read before, batches beside each other as in `captions`
one batch    the same with all threads on one batch
product, numpy   one product of two large matrices of float32, by ONNX Runtime and by numpy
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from serving import Settings, System, Work, run_process

import showtell
from showtell.bundle import Bundle, read_bundle
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.images import read_pixels
from showtell.records import Failure

SIDE = 2048  # of the large matrices
CALL = 8  # batches in a call: pictures are read while the networks run
CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}  # and which input is the weight
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "QGemm")


def count_flops(graph: bytes) -> int:
    """Operations of a graph on one picture: two for each multiplication of its convolutions and matrix products.

    Raises:
        ValueError: The shape of one of them is not known.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    typed = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    shapes = {value.name: [one.dim_value for one in value.type.tensor_type.shape.dim] for value in typed}
    shapes |= {weight.name: list(weight.dims) for weight in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS and node.op_type not in PRODUCTS:
            continue
        made = shapes.get(node.output[0], [])
        given = shapes.get(node.input[CONVOLUTIONS.get(node.op_type, 0)], [])
        if not made or not given or 0 in (*made, *given):
            raise ValueError(f"the shape of {node.op_type} {node.output[0]!r} is not known")
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        each = np.prod(given[1:]) if node.op_type in CONVOLUTIONS else given[0 if turned else -1]
        total += 2 * int(np.prod(made)) * int(each)
    return total


def build_product(threads: int) -> Callable[[], Any] | None:
    """The product of two large matrices by ONNX Runtime, as a function; None without onnx, which writes its graph."""
    if importlib.util.find_spec("onnx") is None:
        return None
    from onnx import TensorProto, helper

    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", shaped[:2], shaped[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    matrices = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
    return lambda: session.run(None, {"a": matrices[0], "b": matrices[1]})


def load(name: str, settings: Settings) -> System:
    bundle = read_bundle(settings.model)
    captioner = Captioner(bundle, threads=settings.threads)
    size = settings.batch
    fixed = captioner.options(beam=settings.beam, min_length=settings.words, max_length=settings.words)

    def search_with(options: SearchOptions) -> Work:
        def caption(pictures: list[bytes]) -> list[int]:
            found = captioner.caption(pictures, options, batch=size)
            for result in found:
                if isinstance(result, Failure):
                    raise SystemExit(str(result))
            return [len(result.words) for result in found]

        return Work(caption, CALL * size)

    some = [Path(path).read_bytes() for path in (settings.pictures * size)[:size]]
    pixels = np.stack([read_pixels(data, captioner.manifest.preprocessing) for data in some])

    def encode_beside(pictures: list[bytes]) -> list[int]:
        encoded = captioner.runtime.spread(lambda runtime, some: list(runtime.encode_each(some)), [list(pixels)] * CALL)
        return [0 for done in encoded for _ in done]

    works = {
        "captions": search_with(fixed),
        "as it ends": search_with(captioner.options(beam=settings.beam)),
        "greedy": search_with(captioner.options(beam=1)),
        "beam 5": search_with(captioner.options(beam=5)),
        "encoder": Work(encode_beside, CALL * size),
        "one batch": Work(once(lambda: captioner.runtime.encode(pixels)), size),
    }
    matrices = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
    products = {"product": build_product(settings.threads), "numpy": lambda: matrices[0] @ matrices[1]}
    works |= {name: Work(once(product), 1) for name, product in products.items() if product}
    return System(works, describe(bundle, settings.model))


def once(function: Callable[[], Any]) -> Callable[[list[bytes]], list[int]]:
    def run(pictures: list[bytes]) -> list[int]:
        function()
        return [0] * len(pictures)

    return run


def describe(bundle: Bundle, model: str) -> dict[str, Any]:
    """What is told beside the rates; operations only where onnx is there to read the graph."""
    place = Path(model) if Path(model).exists() else Path(str(files("showtell.bundles") / model))
    listed = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    graph = bundle.graphs["encoder"]
    return {
        "version": f"showtell {showtell.__version__}, onnxruntime {onnxruntime.__version__}",
        "parameters": sum(array.size for array in bundle.weights.values()),
        "disk": sum(path.stat().st_size for path in listed) / 1e6,
        "encoder_flops": count_flops(graph) if importlib.util.find_spec("onnx") else None,
        "product_flops": 2 * SIDE**3,
    }


def write(name: str, folder: Path) -> None:
    raise SystemExit("showtell comes with its weights")


if __name__ == "__main__":
    run_process(write, load)
