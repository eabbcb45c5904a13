"""A trained encoder with its decoder or alignment -> the graphs and weights of a bundle, checked against PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from showtell import __version__
from showtell.bundle import Bundle, Manifest
from showtell.captioner import Runtime
from showtell.decoding import SearchOptions, search
from showtell.errors import BackendError
from showtell.learn.alignment import Alignment
from showtell.learn.decoders import LookupDecoder, VectorDecoder
from showtell.learn.encoders import Encoder
from showtell.learn.steps import Decoder
from showtell.learn.validation import TorchStep
from showtell.text import START, Vocabulary

_EXTERNAL_BYTES = 1024  # smaller initialisers stay inside the graph
_HALF = ".half"  # what the name of a float16 weight ends in
_FEATURE_TOLERANCE = 1e-3  # of the largest feature
_LOGPROB_TOLERANCE = 1e-3  # nats a word


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from PyTorch on the same pictures.

    Units: `features` is the largest difference as a share of the largest feature; `logprobs` the largest difference of
        a word's log-probability along PyTorch's captions, in nats; `same_captions` a share of `pictures`.
    """

    pictures: int
    features: float
    logprobs: float
    same_captions: float


def export_bundle(encoder: Encoder, decoder: Decoder, vocabulary: Vocabulary, name: str) -> Bundle:
    """The bundle of a captioner, float32, without scores or a card."""
    graph, weights = _export_encoder(encoder, encoder.preprocessing.size)
    bundle = Bundle(_describe(encoder, name), vocabulary, {"encoder": graph}, weights)
    return with_decoder(bundle, decoder, torch.zeros(2, encoder.rows * encoder.columns, encoder.width))


def export_alignment(encoder: Encoder, model: Alignment, vocabulary: Vocabulary, name: str, wide: int) -> Bundle:
    """The bundle of an alignment model, float32, without scores or a card.

    Args:
        wide: Pixels of the pictures whose regions are looked at.

    Raises:
        BackendError: The graph of larger pictures came out with other weights than the encoder's.
    """
    graph, weights = _export_encoder(encoder, encoder.preprocessing.size)
    wide_graph, same = _export_encoder(encoder, wide)
    if any(key not in weights or not np.array_equal(weights[key], array) for key, array in same.items()):
        raise BackendError(f"the exporter gave {encoder.name!r} other weights for pictures of {wide} pixels")
    weights.update({f"alignment/{key}": tensor.numpy() for key, tensor in model.cpu().state_dict().items()})
    manifest = replace(_describe(encoder, name), graphs=("encoder", "wide"), wide=wide)
    return Bundle(manifest, vocabulary, {"encoder": graph, "wide": wide_graph}, weights)


def _describe(encoder: Encoder, name: str) -> Manifest:
    """The manifest of a bundle that has its encoder alone so far."""
    return Manifest(
        name=name,
        package=__version__,
        encoder=encoder.name,
        rows=encoder.rows,
        columns=encoder.columns,
        preprocessing=encoder.preprocessing,
        memory=(),
        state=(),
        attends=False,
        graphs=("encoder",),
    )


def with_decoder(bundle: Bundle, decoder: Decoder, features_BLD: Tensor) -> Bundle:
    """The bundle with the graphs of a decoder too.

    Args:
        features_BLD: What the decoder is started from, of two pictures; only the shape matters.
    """
    if decoder.config.lookup and isinstance(decoder, VectorDecoder):
        decoder = LookupDecoder(decoder)
    decoder.eval()
    with torch.no_grad():
        memory, state = decoder.start(features_BLD)
        memory_names, state_names = tuple(memory), tuple(state)
        for _ in range(3 if decoder.growing else 0):  # a past that is not empty
            state = decoder.step(torch.full((2,), START), memory, state).state
    batch: Any = torch.export.Dim("pictures")
    rows: Any = torch.export.Dim.DYNAMIC  # hypotheses: a multiple of the pictures, which a named Dim cannot say
    start = _export(_Start(decoder).eval(), (features_BLD,), ["features"], [*memory_names, *state_names], ({0: batch},))
    step = _export(
        _Step(decoder, memory_names, state_names).eval(),
        (
            torch.full((4,), START),
            *memory.values(),
            *(tensor.repeat_interleave(2, 0) for tensor in state.values()),
        ),
        ["tokens", *memory_names, *state_names],
        ["logprobs", *(f"{name}_next" for name in state_names), *(["alpha"] if decoder.attends else [])],
        (
            {0: rows},
            tuple({0: rows} | ({1: rows} if name in decoder.growing else {}) for name in (*memory_names, *state_names)),
        ),
    )
    _rank(step)
    graphs, weights = dict(bundle.graphs), dict(bundle.weights)
    for graph, model in (("start", start), ("step", step)):
        graphs[graph], taken = _split(model)
        weights.update({f"{graph}/{key}": array for key, array in taken.items()})
    names: Any = (bundle.manifest.graphs[0], "start", "step", *bundle.manifest.graphs[1:])
    manifest = replace(bundle.manifest, memory=memory_names, state=state_names, attends=decoder.attends, graphs=names)
    return replace(bundle, manifest=manifest, graphs=graphs, weights=weights)


def _rank(step: Any) -> None:
    """Adds the `best` tokens of each row and their log-probabilities to what the graph says, best first."""
    graph = step.graph
    kinds = onnx.TensorProto
    graph.node.append(onnx.helper.make_node("TopK", ["logprobs", "best"], ["best_logprobs", "best_tokens"]))
    graph.input.append(onnx.helper.make_tensor_value_info("best", kinds.INT64, [1]))
    for name, kind in (("best_logprobs", kinds.FLOAT), ("best_tokens", kinds.INT64)):
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, ["rows", "best"]))


def _export_encoder(encoder: Encoder, size: int) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The graph of the encoder for pictures of one size, and its weights."""
    pixels, batch = torch.zeros(2, size, size, 3, dtype=torch.uint8), torch.export.Dim("pictures")
    graph, taken = _split(_export(encoder.eval(), (pixels,), ["pixels"], ["features"], ({0: batch},)))
    return graph, {f"encoder/{key}": array for key, array in taken.items()}


def _split(model: Any) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """(a graph without its large initialisers, those by name)."""
    taken = {
        initialiser.name: take_out(initialiser)
        for initialiser in model.graph.initializer
        if len(initialiser.raw_data) >= _EXTERNAL_BYTES and initialiser.data_type == onnx.TensorProto.FLOAT
    }
    return model.SerializeToString(deterministic=True), taken


def check_parity(
    bundle: Bundle,
    encoder: Encoder,
    decoder: Decoder,
    pixels: Sequence[NDArray[np.uint8]],
    options: SearchOptions,
) -> Parity:
    """Compares a float32 bundle with the PyTorch modules it came from, on real pictures.

    Raises:
        BackendError: Features or log-probabilities differ by more than rounding, or captions differ otherwise than
            where two are equally likely.
    """
    runtime, torch_step = Runtime(bundle), TorchStep(decoder)
    feature_gap = logprob_gap = 0.0
    same = 0
    for begin in range(0, len(pixels), 16):
        batch = np.stack(pixels[begin : begin + 16])
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(batch)).contiguous().numpy()
        features = runtime.encode(batch)
        feature_gap = max(feature_gap, float(np.abs(features - expected).max() / np.abs(expected).max()))
        captions = [best[0].tokens for best in search(torch_step, expected, options)]
        logprob_gap = max(logprob_gap, _step_gap(runtime, torch_step, features, expected, captions))
        same += sum(
            best[0].tokens == tokens for best, tokens in zip(search(runtime, features, options), captions, strict=True)
        )
    parity = Parity(len(pixels), feature_gap, logprob_gap, same / max(len(pixels), 1))
    close = feature_gap <= _FEATURE_TOLERANCE and logprob_gap <= _LOGPROB_TOLERANCE
    if not close or len(pixels) - same > max(1, 0.02 * len(pixels)):  # a few captions are as likely as their second
        raise BackendError(
            f"the exported graphs do not say what PyTorch says: {parity}; "
            f"tolerated are {_FEATURE_TOLERANCE} for features and {_LOGPROB_TOLERANCE} for log-probabilities"
        )
    return parity


def check_decoder(bundle: Bundle, decoder: Decoder, features_BLD: NDArray[np.float32], options: SearchOptions) -> float:
    """The largest difference of a word's log-probability, in nats, between a bundle's decoder and PyTorch's.

    Raises:
        BackendError: It is more than rounding.
    """
    torch_step = TorchStep(decoder)
    captions = [best[0].tokens for best in search(torch_step, features_BLD, options)]
    gap = _step_gap(Runtime(bundle), torch_step, features_BLD, features_BLD, captions)
    if gap > _LOGPROB_TOLERANCE:
        raise BackendError(
            f"the exported decoder differs from PyTorch by {gap} nats a word; tolerated are {_LOGPROB_TOLERANCE}"
        )
    return gap


def _step_gap(
    runtime: Runtime,
    torch_step: TorchStep,
    features: NDArray[np.float32],
    expected: NDArray[np.float32],
    captions: Sequence[tuple[int, ...]],
) -> float:
    """The largest difference of log-probabilities when both are led along the same captions."""
    (memory, state), (torch_memory, torch_state) = runtime.start(features), torch_step.start(expected)
    tokens_BT = np.full((len(captions), 1 + max(map(len, captions))), START, np.int64)
    for row, tokens in enumerate(captions):
        tokens_BT[row, 1 : 1 + len(tokens)] = tokens
    gap = 0.0
    for tokens_B in tokens_BT.T:
        ours = runtime.step(np.ascontiguousarray(tokens_B), memory, state)
        theirs = torch_step.step(np.ascontiguousarray(tokens_B), torch_memory, torch_state)
        gap = max(gap, float(np.abs(ours.logprobs_NC - theirs.logprobs_NC).max()))
        state, torch_state = ours.state, theirs.state
    return gap


def halve(bundle: Bundle) -> Bundle:
    """The same bundle with its float32 weights in float16, half the size on disk; each is cast back where it is used.

    ONNX Runtime casts them once, when it opens the graph, unless it is told not to optimise.
    """
    graphs = {graph: _cast_back(data) for graph, data in bundle.graphs.items()}
    weights = {
        **{name: array for name, array in bundle.weights.items() if array.dtype != np.float32},
        **{
            f"{name}{_HALF}": array.astype(np.float16)
            for name, array in bundle.weights.items()
            if array.dtype == np.float32
        },
    }
    return Bundle(bundle.manifest, bundle.vocabulary, graphs, weights, bundle.card)


def _cast_back(graph: bytes) -> bytes:
    """The graph with its external initialisers in float16 and a cast behind each."""
    model = onnx.load_model_from_string(graph)
    casts = []
    for initialiser in model.graph.initializer:
        external = initialiser.data_location == onnx.TensorProto.EXTERNAL
        if external and initialiser.data_type == onnx.TensorProto.FLOAT:
            name = initialiser.name
            initialiser.name = name + _HALF
            initialiser.data_type = onnx.TensorProto.FLOAT16
            for entry in initialiser.external_data:
                if entry.key == "length":
                    entry.value = str(int(entry.value) // 2)
            casts.append(onnx.helper.make_node("Cast", [name + _HALF], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Start(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        memory, state = self.decoder.start(features)
        return (*memory.values(), *state.values())


class _Step(nn.Module):
    def __init__(self, decoder: Decoder, memory: tuple[str, ...], state: tuple[str, ...]) -> None:
        super().__init__()
        self.decoder = decoder
        self.names = (memory, state)

    def forward(self, tokens: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
        memory, state = self.names
        step = self.decoder.step(
            tokens,
            dict(zip(memory, arrays[: len(memory)], strict=True)),
            dict(zip(state, arrays[len(memory) :], strict=True)),
        )
        outputs = (step.logits_NV.log_softmax(-1), *step.state.values())
        return outputs if step.alpha_NL is None else (*outputs, step.alpha_NL)


def _export(module: nn.Module, inputs: Any, input_names: list[str], output_names: list[str], shapes: Any) -> Any:
    """The ONNX model of a module; what the exporter prints and warns of stays out of the user's way."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=shapes,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # the exporter leaves stack traces of this machine in every node
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def take_out(initialiser: Any) -> NDArray[Any]:
    """The numbers of an initialiser, which from now on names them as external data."""
    array = onnx.numpy_helper.to_array(initialiser).copy()
    initialiser.ClearField("raw_data")
    initialiser.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.safetensors"), ("offset", "0"), ("length", str(array.nbytes))):
        entry = initialiser.external_data.add()
        entry.key, entry.value = key, value
    return array
