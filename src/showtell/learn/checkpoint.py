"""The state of a run on disk: what a stopped training goes on from, to the same numbers.

    checkpoint.pt      tensors and plain values (never a pickled class; read back with `weights_only=True`)
    best.safetensors   the decoder's weights of the epoch with the best validation CIDEr
Both are written beside the old file and take its name at the end, so that a full disk leaves the old one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from showtell.errors import TrainingError

ENCODER = "encoder."  # what the names of the encoder's weights begin with, beside the decoder's


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file in full or not at all.

    Raises:
        TrainingError: The disk is full or the folder cannot be written; what was at `path` is still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, as each writer says it
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise TrainingError(
            f"could not write {path}: {error}; the file of before is unharmed: make room and start again with --resume"
        ) from error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, lambda partial: torch.save(state, partial))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises:
    TrainingError: The file is missing or damaged, or holds more than tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"there is no checkpoint at {path}; start the run without --resume") from error
    except Exception as error:  # whatever a damaged zip or a foreign pickle makes torch raise
        raise TrainingError(f"the checkpoint {path} is damaged ({type(error).__name__}: {error})") from error
    return state


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    # Copies: safetensors takes no two names of one tensor, such as tied words.
    clean = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    write_atomically(path, lambda partial: save_file(clean, partial))


def read_weights(path: Path) -> dict[str, Tensor]:
    return dict(load_file(path))


def split_weights(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the decoder's weights, those of the encoder's network, none where it was not tuned)."""
    ours = {name: tensor for name, tensor in weights.items() if not name.startswith(ENCODER)}
    tuned = {name.removeprefix(ENCODER): tensor for name, tensor in weights.items() if name.startswith(ENCODER)}
    return ours, tuned


def read_encoder(directory: Path) -> dict[str, Tensor]:
    """The weights of a run's encoder, tuned where the run tuned it.

    Raises:
        TrainingError: No run with a finished epoch is there.
    """
    kept, best = directory / "encoder.safetensors", directory / "best.safetensors"
    for path in (kept, best):
        if not path.exists():
            raise TrainingError(f"{directory} has no {path.name}: no run is there, or its first epoch is not finished")
    return split_weights(read_weights(best))[1] or read_weights(kept)
