"""torchvision, importable beside a CPU-only PyTorch.

torchvision's wheel on PyPI is linked to CUDA; its operators are then missing, and it ends while it describes them.
Captioning calls none of them, so it is enough that their names are there. Where all is well nothing is done.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # they last as long as the library


def prepare_torchvision() -> None:
    """Call it before the first import of torchvision."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared:
        return
    try:
        for extension in sorted(Path(spec.origin).parent.glob("_C*.so")):
            torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(operator)
        _declared.append(library)
