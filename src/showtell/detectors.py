"""A picture and any detector in ONNX -> boxes with what is in them: a `Proposer` that knows names.

The detector comes from elsewhere, as one ONNX file and a text file with the names of its classes. How it takes pictures
and which of the usual forms its answers have is read from the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from showtell.boxes import Floats, clip, is_valid, nms
from showtell.errors import BundleError, ConfigError, DataError
from showtell.proposals import Picture, picture_size, resize

_MOST_CANDIDATES = 1000  # boxes that are compared with each other
_STRIDE = 32  # pixels; networks that take any size reduce it by 32 in steps of 2, and want it to come out even
_GREY = 114  # the colour beside the picture, that of the YOLO family's training
_TELLING = ("box", "label", "class", "score", "conf", "prob", "num")
_ACCEPTED = (
    "accepted are three outputs (boxes, scores and labels), or one: (1, N, 5 + classes) as of YOLOv5, "
    "(1, 4 + classes, N) as of YOLOv8, (1, N, 6) as of YOLOv10"
)


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in a picture, best first.

    Shape: `boxes` (R, 4) in pixels of the picture; `labels` and `scores`, from 0 to 1, have one entry a box.
    """

    boxes: Floats
    labels: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class _Input:
    """How a detector takes its picture; `height` and `width` are None where it takes any."""

    name: str
    dtype: type[np.generic]
    channels_last: bool
    batched: bool
    height: int | None
    width: int | None


class Detector:
    """A detector in ONNX with the names of its classes; it is a `Proposer`, and `detect` also says what it found."""

    def __init__(
        self, session: Any, labels: Sequence[str], name: str, *, threshold: float, overlap: float, most: int, side: int
    ) -> None:
        self.labels = tuple(labels)
        self._session, self._name = session, name
        self._threshold, self._overlap, self._most, self._side = threshold, overlap, most, side
        self._input = _read_input(session, name)
        self._outputs = [output.name for output in session.get_outputs()]
        if len(self._outputs) == 1:  # where the graph says its shape, what is not understood is refused before a run
            shape = session.get_outputs()[0].shape
            if all(isinstance(side, int) for side in shape):
                _single_form(tuple(shape), len(self.labels), name)
        elif len(self._outputs) < 3:
            raise BundleError(
                f"{name} has the outputs {', '.join(self._outputs)}, which are not understood; {_ACCEPTED}"
            )

    def __call__(self, picture: Picture) -> Floats:
        return self.detect(picture).boxes

    def detect(self, picture: Picture) -> Detections:
        """What is in the picture.

        Raises:
            BundleError: The model cannot be run, or what it answers is not understood or does not fit the labels.
        """
        height, width = picture_size(picture)
        pixels, scale = self._fit(picture)
        try:
            answers = self._session.run(self._outputs, {self._input.name: pixels})
        except Exception as error:  # ONNX Runtime's exceptions share no public root
            raise BundleError(f"{self._name} cannot be run on a picture of {width} × {height}: {error}") from error
        boxes, scores, classes = self._read(dict(zip(self._outputs, map(np.asarray, answers), strict=True)))
        known = boxes[np.isfinite(boxes).all(axis=1)]
        if known.size and np.abs(known).max() <= 1.5:  # shares of the input: no model answers boxes of one pixel only
            high, wide = pixels.shape[-3:-1] if self._input.channels_last else pixels.shape[-2:]
            boxes = boxes * [wide, high, wide, high]
        boxes = clip(boxes / scale, width, height)
        good = np.flatnonzero(is_valid(boxes) & (scores >= self._threshold))
        good = good[np.argsort(-scores[good], kind="stable")][:_MOST_CANDIDATES]
        kept = good[_nms_by_class(boxes[good], scores[good], classes[good], self._overlap)][: self._most]
        labels = tuple(self._label(int(number)) for number in classes[kept])
        return Detections(boxes[kept], labels, tuple(map(float, scores[kept].clip(0, 1))))

    def _fit(self, picture: Picture) -> tuple[NDArray[Any], float]:
        """The picture as the model takes it, in the upper left corner of its input, and how far it was reduced."""
        height, width = picture.shape[:2]
        target = self._input
        fixed = [given / had for given, had in ((target.height, height), (target.width, width)) if given]
        scale = min(fixed) if fixed else min(1.0, self._side / max(width, height))
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        shape = (target.height or -(-high // _STRIDE) * _STRIDE, target.width or -(-wide // _STRIDE) * _STRIDE, 3)
        canvas = np.full(shape, _GREY, np.uint8)
        canvas[:high, :wide] = resize(picture, wide, high)[: shape[0], : shape[1]]
        values = canvas if target.dtype is np.uint8 else (canvas / 255).astype(target.dtype)
        values = values if target.channels_last else values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None] if target.batched else values), scale

    def _read(self, answers: dict[str, NDArray[Any]]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Boxes (N, 4) in the input's pixels or shares of it, scores (N,) and classes (N,)."""
        if len(answers) > 1:
            return _read_several(answers, self._name)
        answer = next(iter(answers.values())).astype(np.float64)
        form = _single_form(answer.shape, len(self.labels), self._name)
        rows = answer[0].T if form == "v8" else answer[0]
        if form == "v10":
            return rows[:, :4], rows[:, 4], _whole(rows[:, 5], self._name)
        across, down, wide, high = rows[:, :4].T
        boxes = np.stack([across - wide / 2, down - high / 2, across + wide / 2, down + high / 2], axis=1)
        each = rows[:, 4:] if form == "v8" else rows[:, 4:5] * rows[:, 5:]
        classes = np.where(np.isnan(each), -np.inf, each).argmax(axis=1)
        return boxes, np.take_along_axis(each, classes[:, None], axis=1)[:, 0], classes.astype(np.int64)

    def _label(self, number: int) -> str:
        if not 0 <= number < len(self.labels):
            raise BundleError(
                f"{self._name} found class {number}, and its file of labels has {len(self.labels)} lines, from class 0 "
                "on; give one line a class in the model's order, with the background where the model counts it"
            )
        return self.labels[number]


def detector(
    model: str | Path,
    labels: str | Path,
    *,
    threshold: float = 0.25,
    overlap: float = 0.5,
    most: int = 100,
    side: int = 640,
    threads: int | None = None,
) -> Detector:
    """A detector from its ONNX file and its text file of labels, one class a line, from class 0 on.

    Its input is one picture of three channels, (1, 3, H, W), (1, H, W, 3) or either without the 1: floats from 0 to 1
    or bytes from 0 to 255, whichever the file declares. A picture keeps its proportions; a fixed input is filled up
    with grey, one that takes any size gets a multiple of 32 pixels.

    Its outputs are boxes (N, 4) with scores (N,) and labels (N,), told apart by their names or else by their shapes and
    types, each perhaps with a 1 before; or one array, (1, N, 5 + classes) of centre, size, objectness and classes
    (YOLOv5), (1, 4 + classes, N) of centre, size and classes (YOLOv8), or (1, N, 6) of corners, score and class
    (YOLOv10). Boxes are x0, y0, x1, y1, and y0, x0, y1, x1 in an output named detection_boxes (TensorFlow); in pixels
    of the input, or in shares of it where none is beyond 1.5.

    Args:
        threshold: Boxes of lower scores are left out.
        overlap: Of two boxes of one class that overlap more (intersection over union), the better one is kept.
        most: Boxes at the most, the best.
        side: Pixels of the longer side, for a model that takes any size.
        threads: Of ONNX Runtime; by default as many as there are cores.

    Raises:
        BundleError: The model cannot be opened, or its input or output is not understood.
        DataError: The labels cannot be read, or there are none.
        ConfigError: An argument out of its range.
    """
    for option, value in (("threshold", threshold), ("overlap", overlap)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{option} is {value!r}; it must be from 0 to 1")
    if most < 1 or side < _STRIDE:
        raise ConfigError(f"most is {most!r} and side {side!r}; they must be at least 1 and {_STRIDE}")
    names = _read_labels(Path(labels))
    return Detector(
        _open(Path(model), threads), names, str(model), threshold=threshold, overlap=overlap, most=most, side=side
    )


def _open(model: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not model.is_file():
        raise BundleError(f"there is no detector {model}; give the path of an ONNX file")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public root
        raise BundleError(f"ONNX Runtime refuses the detector {model}: {error}") from error


def _read_labels(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise DataError(f"cannot read the labels {path} ({reason}); give a text file with one class a line") from error
    if not any(lines):
        raise DataError(f"{path} has no label; give a text file with one class a line, in the model's order")
    return lines


def _read_input(session: Any, name: str) -> _Input:
    inputs = session.get_inputs()
    types: dict[str, type[np.generic]] = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(uint8)": np.uint8,
    }
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape[-3:]]
    batch = shape[0] if len(shape) == 4 else 1
    one = not isinstance(batch, int) or batch in (1, -1)
    if len(shape) not in (3, 4) or 3 not in (sides[0], sides[2]) or inputs[0].type not in types or not one:
        found = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs)
        raise BundleError(
            f"{name} takes {found or 'nothing'}, which is not understood; accepted is one picture of float or uint8, "
            "(1, 3, H, W) or (1, H, W, 3)"
        )
    last = sides[0] != 3
    height, width = sides[:2] if last else sides[1:]
    return _Input(inputs[0].name, types[inputs[0].type], last, len(shape) == 4, height, width)


def _single_form(shape: tuple[int, ...], classes: int, name: str) -> Literal["v5", "v8", "v10"]:
    """Which of the forms of one output this is.

    Raises:
        BundleError: None of them, with this number of classes.
    """
    if len(shape) == 3 and shape[0] == 1:
        if shape[1] == 4 + classes:
            return "v8"
        if shape[2] == 5 + classes:
            return "v5"
        if shape[2] == 6:
            return "v10"
    raise BundleError(
        f"{name} has one output of shape {shape}, which is not understood for {classes} labels; {_ACCEPTED}; "
        "the file of labels has one line a class"
    )


def _read_several(answers: dict[str, NDArray[Any]], name: str) -> tuple[Floats, Floats, NDArray[np.int64]]:
    fours = {key: value for key, value in answers.items() if value.ndim > 1 and value.shape[-1] == 4}
    # Of boxes (1, 4, 4) and scores (1, 4), or of boxes (1, 4) and scores (1,), the ones with more axes are the boxes.
    boxes = _pick(dict(sorted(fours.items(), key=lambda item: -item[1].ndim)), ("box",), "f")
    found = answers[boxes].reshape(-1, 4).astype(np.float64) if boxes else np.zeros((0, 4))
    rest = {key: value.ravel() for key, value in answers.items() if key != boxes and value.size == len(found)}
    labels = _pick(rest, ("label", "class"), "iu")
    scores = _pick({key: value for key, value in rest.items() if key != labels}, ("score", "conf", "prob"), "f")
    if not (boxes and labels and scores):
        shapes = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in answers.items())
        raise BundleError(f"{name} answers {shapes}, which is not understood; {_ACCEPTED}")
    if "detection_boxes" in boxes:
        found = found[:, [1, 0, 3, 2]]
    return found, rest[scores].astype(np.float64), _whole(rest[labels], name)


def _pick(answers: dict[str, NDArray[Any]], parts: Sequence[str], kinds: str) -> str | None:
    """The first key that says what it is, or else, of those that do not, the first whose numbers are of such a kind."""
    for key in answers:
        if any(part in key.lower() for part in parts):
            return key
    silent = (key for key in answers if not any(part in key.lower() for part in _TELLING))
    return next((key for key in silent if answers[key].dtype.kind in kinds), None)


def _whole(numbers: NDArray[Any], name: str) -> NDArray[np.int64]:
    if not np.isfinite(numbers).all():
        raise BundleError(f"{name} answers classes that are not numbers; it, or its export, is broken")
    return np.asarray(np.rint(numbers), np.int64)


def _nms_by_class(boxes: Floats, scores: Floats, classes: NDArray[np.int64], overlap: float) -> NDArray[np.intp]:
    """The indices of the boxes that no better one of their class overlaps, best first."""
    kept = []
    for number in np.unique(classes):
        own = np.flatnonzero(classes == number)
        kept.append(own[nms(boxes[own], scores[own], overlap)])
    together = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.intp)
    return together[np.argsort(-scores[together], kind="stable")]
