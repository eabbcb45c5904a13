"""The training half; needs the extra `train`. Importing this package imports nothing heavy: its modules do."""

from showtell.errors import BackendError


def require_training_stack() -> None:
    """Raises:
    BackendError: PyTorch and its friends are not installed; the sentence has the line that installs them.
    """
    from importlib.util import find_spec

    missing = [
        name for name in ("torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib") if find_spec(name) is None
    ]
    if missing:
        raise BackendError(
            f"training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "run: pip install 'showtell[train]' (add --extra-index-url https://download.pytorch.org/whl/cpu "
            "for PyTorch without CUDA)"
        )
