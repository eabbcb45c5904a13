"""Detectors in ONNX, of every form that is understood, as graphs of a few nodes built here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from showtell.detectors import Detector, detector
from showtell.errors import BundleError, ConfigError, DataError

onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto

LABELS = ("cat", "dog", "red kite")
PICTURE = np.full((100, 200, 3), 255, np.uint8)
CORNERS = np.array([[8.0, 4.0, 40.0, 20.0], [0.0, 0.0, 64.0, 32.0]], np.float32)  # in an input of 64 x 64, scale 0.32
IN_PICTURE = [[25, 12.5, 125, 62.5], [0, 0, 200, 100]]

Build = Callable[..., Detector]


def save(
    path: Path,
    outputs: dict[str, NDArray[Any]],
    *,
    shape: Sequence[int | str] = (1, 3, 64, 64),
    dtype: int = TensorProto.FLOAT,
    dynamic: bool = False,
    nodes: Sequence[Any] = (),
    inputs: int = 1,
) -> Path:
    """A graph that answers constants, or what `nodes` compute from `pixels` in place of some of them."""
    made = {name for node in nodes for name in node.output}
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
        if name not in made
    ]
    described = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(value.dtype),
            [f"{name}_{axis}" for axis in range(value.ndim)] if dynamic else value.shape,
        )
        for name, value in outputs.items()
    ]
    names = ["pixels", "second"][:inputs]
    graph = helper.make_graph(
        [*constants, *nodes],
        "detector",
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
        described,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build_one(outputs: dict[str, NDArray[Any]], labels: Sequence[str] = LABELS, **options: Any) -> Detector:
        chosen = {name: options.pop(name) for name in ("threshold", "overlap", "most", "side") if name in options}
        (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
        return detector(save(tmp_path / "model.onnx", outputs, **options), tmp_path / "labels.txt", threads=1, **chosen)

    return build_one


def three(batched: bool = True, classes: type[Any] = np.int64) -> list[NDArray[Any]]:
    found = [CORNERS, np.array([0.6, 0.9], np.float32), np.array([2, 0], classes)]
    return [value[None] if batched else value for value in found]


def check(found: Detector, picture: NDArray[np.uint8] = PICTURE) -> None:
    detections = found.detect(picture)
    assert detections.labels == ("cat", "red kite")
    assert detections.scores == pytest.approx((0.9, 0.6))
    np.testing.assert_allclose(detections.boxes, IN_PICTURE[::-1], atol=1e-4)
    np.testing.assert_array_equal(found(picture), detections.boxes)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_three_outputs_are_told_apart_by_their_names(build: Build, batched: bool, dynamic: bool) -> None:
    boxes, scores, labels = three(batched)
    check(build({"pred_labels": labels, "scores": scores, "bboxes": boxes}, dynamic=dynamic))


def test_three_outputs_without_names_are_told_apart_by_shape_and_type(build: Build) -> None:
    boxes, scores, labels = three()
    check(build({"2871": boxes, "2872": labels, "2873": scores}))
    check(build({"2871": scores[0], "2872": labels[0], "2873": boxes[0]}))


def test_four_detections_without_names_are_not_taken_for_a_box(build: Build) -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    boxes = np.array([[[x, 0, x + 10, 32] for x in (0, 16, 32, 48)]], np.float32)
    found = build({"a": scores, "b": np.zeros((1, 4), np.int64), "c": boxes}).detect(PICTURE)
    np.testing.assert_allclose(found.boxes[:, 0], [0, 50, 100, 150])


def test_boxes_as_tensorflow_answers_them(build: Build) -> None:
    shares = CORNERS[None, :, [1, 0, 3, 2]] / 64
    _, scores, labels = three(classes=np.float32)
    count = np.array([2.0], np.float32)
    outputs = {
        "detection_boxes": shares,
        "detection_classes": labels,
        "detection_scores": scores,
        "num_detections": count,
    }
    check(build(outputs, shape=(1, 64, 64, 3), dtype=TensorProto.UINT8))


def test_the_form_of_yolo_v5(build: Build) -> None:
    centres = np.hstack([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]])
    classes = np.array([[0.1, 0.2, 0.75], [1.0, 0.0, 0.0]], np.float32)
    rows = np.hstack([centres, [[0.8], [0.9]], classes]).astype(np.float32)
    rows = np.vstack([rows, [[32, 32, 5, 5, 0.1, 1, 1, 1]]]).astype(np.float32)
    check(build({"output0": rows[None]}))
    check(build({"output0": rows[None]}, dynamic=True))


def test_the_form_of_yolo_v8(build: Build) -> None:
    centres = np.hstack([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]])
    rows = np.hstack([centres, [[0.1, 0.2, 0.6], [0.9, 0.0, 0.0]]])
    near = rows[1] * [1.02, 1, 1, 1, 0.8, 1, 1]  # the same cat again, less sure
    both = np.vstack([rows, near, rows[1] * [1, 1, 1, 1, 0, 1, 1]]).astype(np.float32)
    check(build({"output0": both.T[None]}))
    shares = both / [64, 64, 64, 64, 1, 1, 1]
    check(build({"output0": shares.T[None].astype(np.float32)}))


def test_the_form_of_yolo_v10(build: Build) -> None:
    rows = np.hstack([CORNERS, [[0.6, 2], [0.9, 0]]])
    empty = np.zeros((3, 6))
    check(build({"output0": np.vstack([rows, empty])[None].astype(np.float32)}))


@pytest.mark.parametrize(
    ("shape", "dtype", "cast"),
    [
        ((1, 3, 64, 64), TensorProto.FLOAT, 1.0),
        ((1, 64, 64, 3), TensorProto.FLOAT, 1.0),
        ((1, 64, 64, 3), TensorProto.UINT8, 255.0),
        ((1, 3, 64, 64), TensorProto.UINT8, 255.0),
        (("batch", 3, "height", "width"), TensorProto.FLOAT, 1.0),
        ((3, "height", "width"), TensorProto.FLOAT16, 1.0),
    ],
)
def test_the_picture_comes_in_the_range_and_layout_of_the_input(
    build: Build, shape: tuple[int | str, ...], dtype: int, cast: float
) -> None:
    """The graph's score is the input's brightest value, divided by what a white pixel should be."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["plain"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["plain"], ["brightest"], keepdims=0),
        helper.make_node("Constant", [], ["white"], value=numpy_helper.from_array(np.array([cast * 2], np.float32))),
        helper.make_node("Div", ["brightest", "white"], ["scores"]),
    ]
    outputs = {"boxes": CORNERS[:1], "scores": np.zeros(1, np.float32), "labels": np.array([1])}
    found = build(outputs, shape=shape, dtype=dtype, nodes=nodes).detect(PICTURE)
    assert found.labels == ("dog",)
    assert found.scores == pytest.approx((0.5,), abs=1e-3)
    grey = build(outputs, shape=shape, dtype=dtype, nodes=nodes, threshold=0.0).detect(np.zeros_like(PICTURE))
    assert grey.scores == pytest.approx((114 / 255 / 2,), abs=1e-3)  # what is beside the picture


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (64, 64), (1, 1), (2000, 100), (1280, 960)])
def test_a_box_over_the_whole_picture_comes_back_from_any_input(build: Build, width: int, height: int) -> None:
    """The graph's box is as large as its input, so that where the picture ends in it is cut."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Constant", [], ["order"], value=numpy_helper.from_array(np.array([3, 2]))),
        helper.make_node("Gather", ["shape", "order"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["ends"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.zeros(2, np.float32))),
        helper.make_node("Concat", ["zero", "ends"], ["flat"], axis=0),
        helper.make_node("Constant", [], ["form"], value=numpy_helper.from_array(np.array([1, 4]))),
        helper.make_node("Reshape", ["flat", "form"], ["boxes"]),
    ]
    outputs = {"boxes": CORNERS[:1], "scores": np.ones(1, np.float32), "labels": np.array([0])}
    picture = np.full((height, width, 3), 9, np.uint8)
    for shape in ((1, 3, 64, 64), (1, 3, "height", "width"), (1, 3, 32, 96)):
        found = build(outputs, shape=shape, nodes=nodes).detect(picture)
        assert found.boxes.tolist() == [[0, 0, width, height]]


def test_overlapping_boxes_of_one_class_are_reduced_and_all_are_cut(build: Build) -> None:
    boxes = np.array(
        [[0, 0, 30, 30], [1, 0, 31, 30], [0, 0, 30, 30], [-50, -50, 10, 10], [np.nan, 0, 5, 5]], np.float32
    )
    scores = np.array([0.5, 0.9, 0.8, 0.7, 0.99], np.float32)
    outputs = {"boxes": boxes, "scores": scores, "labels": np.array([0, 0, 1, 2, 2])}
    found = build(outputs, dynamic=True).detect(PICTURE)
    assert found.labels == ("cat", "dog", "red kite")
    assert (found.boxes >= 0).all()
    assert build(outputs, most=1).detect(PICTURE).labels == ("cat",)
    assert build(outputs, threshold=0.75).detect(PICTURE).labels == ("cat", "dog")
    assert len(build(outputs, overlap=1.0).detect(PICTURE).labels) == 4
    nothing = build(outputs, threshold=1.0).detect(PICTURE)
    assert (nothing.boxes.shape, nothing.labels, nothing.scores) == ((0, 4), (), ())


def test_a_model_that_finds_nothing_answers_no_boxes(build: Build) -> None:
    outputs = {
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
        "labels": np.zeros(0, np.int64),
    }
    assert build(outputs).detect(PICTURE).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shape": (1, 4, 64, 64)},
            r"takes pixels tensor\(float\) \[1, 4, 64, 64\], which is not understood; accepted",
        ),
        ({"shape": (2, 3, 64, 64)}, "which is not understood"),
        ({"shape": (64, 64)}, "which is not understood"),
        ({"dtype": TensorProto.INT64}, r"takes pixels tensor\(int64\)"),
        ({"inputs": 2}, r"takes pixels .*, second .*, which is not understood"),
    ],
)
def test_inputs_that_are_not_one_picture_are_refused(build: Build, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        build({"output0": np.zeros((1, 7, 10), np.float32)}, **options)


def test_outputs_that_are_not_understood_are_refused(build: Build) -> None:
    yolo = np.zeros((1, 84, 10), np.float32)
    message = r"one output of shape \(1, 84, 10\), which is not understood for 3 labels; accepted are three outputs"
    with pytest.raises(BundleError, match=message):
        build({"output0": yolo})
    with pytest.raises(BundleError, match=message):
        build({"output0": yolo}, dynamic=True).detect(PICTURE)
    with pytest.raises(BundleError, match="has the outputs logits, boxes, which are not understood"):
        build({"logits": yolo, "boxes": CORNERS})
    boxes, scores, _ = three()
    with pytest.raises(BundleError, match=r"answers boxes float32 \(1, 2, 4\), scores .*, which is not understood"):
        build({"boxes": boxes, "scores": scores, "masks": np.zeros((1, 2, 8, 8), np.float32)}).detect(PICTURE)
    wrong = {"boxes": boxes, "scores": scores, "labels": np.array([[np.nan, 0]], np.float32)}
    with pytest.raises(BundleError, match="answers classes that are not numbers"):
        build(wrong).detect(PICTURE)


def test_classes_without_a_label_are_refused(build: Build) -> None:
    boxes, scores, labels = three()
    found = build({"boxes": boxes, "scores": scores, "labels": labels}, labels=["cat", "dog"])
    with pytest.raises(BundleError, match=r"found class 2, and its file of labels has 2 lines, from class 0 on"):
        found.detect(PICTURE)


def test_a_model_that_breaks_says_so(build: Build) -> None:
    nodes = [
        helper.make_node("Constant", [], ["form"], value=numpy_helper.from_array(np.array([1, 7, 11]))),
        helper.make_node("Reshape", ["pixels", "form"], ["output0"]),
    ]
    found = build({"output0": np.zeros((1, 7, 5), np.float32)}, shape=(1, 3, "h", "w"), nodes=nodes, dynamic=True)
    with pytest.raises(BundleError, match=r"model\.onnx cannot be run on a picture of 200 × 100: "):
        found.detect(PICTURE)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    labels, model = tmp_path / "labels.txt", tmp_path / "model.onnx"
    with pytest.raises(DataError, match=r"cannot read the labels .*labels\.txt \(No such file.*one class a line"):
        detector(model, labels)
    labels.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"\(it is not text in UTF-8\)"):
        detector(model, labels)
    labels.write_text("\n \n", "utf-8")
    with pytest.raises(DataError, match=r"labels\.txt has no label"):
        detector(model, labels)
    labels.write_text("cat\ndog\n", "utf-8")
    with pytest.raises(BundleError, match=r"there is no detector .*model\.onnx; give the path of an ONNX file"):
        detector(model, labels)
    model.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses the detector .*model\.onnx: "):
        detector(model, labels)
    with pytest.raises(ConfigError, match="threshold is 2; it must be from 0 to 1"):
        detector(model, labels, threshold=2)
    with pytest.raises(ConfigError, match="most is 0 and side 640"):
        detector(model, labels, most=0)
