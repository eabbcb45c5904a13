"""Pretrained CNNs with their classifier removed: uint8 pictures -> grid features.

Every convolutional network of timm is an encoder by its timm name. Its preprocessing belongs to its weights: size,
interpolation, mean and standard deviation come from timm's record of them, unless the configuration says otherwise.
Weights come from the hub, from a local file (safetensors, or a PyTorch state dict read without pickle), from another
run, or are random.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from showtell.errors import BackendError, ConfigError
from showtell.images import Preprocessing
from showtell.learn import checkpoint
from showtell.learn.config import ModelConfig

_PIECE = 8  # pictures
_declared_operators: list[torch.library.Library] = []  # a Library's declarations live as long as the object


def _import_timm() -> Any:
    """timm, importable beside any build of PyTorch.

    timm imports torchvision, whose wheel on PyPI is linked to CUDA: beside a CPU-only PyTorch its C extension cannot
    load, and its Python half then fails to register shapes for operators that do not exist. Nothing here calls those
    operators, so declaring their names is enough.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is not None and spec.origin is not None and not _declared_operators:
        extensions = sorted(Path(spec.origin).parent.glob("_C*.so"))
        try:
            for extension in extensions:
                torch.ops.load_library(extension)
        except OSError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared_operators.append(library)
    import timm

    return timm


def list_encoders(pattern: str = "") -> list[str]:
    """The names of timm's networks that contain `pattern`, in alphabetical order."""
    return [str(name) for name in _import_timm().list_models(f"*{pattern}*" if pattern else "")]


class Encoder(nn.Module):
    """A CNN that turns pictures into a grid of features.

    Shape: pixels (B, size, size, 3) uint8, RGB -> features (B, L, D) float32, the grid row by row.
    Batch normalisation always runs in evaluation mode: the pretrained statistics stay as they are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as pixels come, and faster
        self.network = network
        self.name = name
        self.preprocessing = preprocessing
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.train(False)
        with torch.no_grad():
            try:
                grid = self._grid(torch.zeros(1, preprocessing.size, preprocessing.size, 3, dtype=torch.uint8))
            except RuntimeError as error:
                raise ConfigError(
                    f"encoder {name!r} does not take pictures of {preprocessing.size} px: {error}; "
                    "choose another image_size in [model]"
                ) from error
        self.width: int = grid.shape[1]
        self.rows, self.columns = int(grid.shape[2]), int(grid.shape[3])

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _grid(self, pixels_BHWC: Tensor) -> Tensor:
        inputs = (pixels_BHWC.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        grid: Tensor = self.network.forward_features(inputs)  # type: ignore[operator]
        if grid.ndim != 4 or getattr(self.network, "output_fmt", "NCHW") != "NCHW":
            raise ConfigError(
                f"encoder {self.name!r} gives features of shape {tuple(grid.shape)} and no grid; "
                "choose a convolutional network ('showtell encoders' lists them)"
            )
        return grid

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        return self._grid(pixels_BHWC).flatten(2).transpose(1, 2)

    def encode(self, pixels_BHWC: Tensor) -> Tensor:
        """The same as `forward`, in pieces that a CPU's caches hold; for many pictures, and not to be exported."""
        if pixels_BHWC.device.type != "cpu":
            return self(pixels_BHWC)
        return torch.cat([self(piece) for piece in pixels_BHWC.split(_PIECE)])

    def top_parameters(self, stages: int) -> Iterator[nn.Parameter]:
        """The parameters of the network's last `stages` stages, and of what follows them (0: none).

        A stage is what timm's `feature_info` calls one: the modules between two reductions of the grid.
        """
        if stages == 0:
            return iter(())
        frozen_end = self._frozen_end(stages)
        if frozen_end is None:
            return self.network.parameters()
        places = {name: place for place, (name, _) in enumerate(self.network.named_modules())}
        last = max(place for name, place in places.items() if f"{name}.".startswith(f"{frozen_end}."))
        named = self.network.named_parameters()
        return iter([parameter for name, parameter in named if places[name.rpartition(".")[0]] > last])

    def _frozen_end(self, stages: int) -> str | None:
        ends = [str(info["module"]) for info in self.network.feature_info]  # type: ignore[union-attr]
        # May have no parameters of its own: a ResNet's act1, a VGG's pooling.
        return None if stages >= len(ends) else ends[-stages - 1]

    def end_of_frozen(self, stages: int) -> nn.Module | None:
        """The module whose output the last `stages` stages are given; None: that is the picture."""
        name = self._frozen_end(stages)
        return None if name is None else self.network.get_submodule(name)

    def fingerprint(self) -> str:
        """A hash of the weights and the preprocessing: equal exactly when the features are."""
        digest = hashlib.sha256(json.dumps([self.name, asdict(self.preprocessing)]).encode())
        for key, tensor in sorted(self.network.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


def build_encoder(config: ModelConfig) -> Encoder:
    """The encoder that a configuration names, with its weights.

    Raises:
        ConfigError: The name is unknown, or a weight file is missing, broken or of another network.
        BackendError: Pretrained weights are asked for and the hub cannot be reached.
    """
    timm = _import_timm()
    name, weights = config.encoder, config.encoder_weights
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        close.sort(key=lambda other: len(other) != len(name))  # 'resnet51' is 'resnet50' sooner than 'resnet51q'
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown encoder {name!r}; {hint}('showtell encoders' lists them)")
    try:
        network = timm.create_model(
            name, pretrained=weights == "pretrained", num_classes=0, global_pool="", **config.encoder_options
        )
    except TypeError as error:
        raise ConfigError(f"encoder {name!r} does not take these encoder_options: {error}") from error
    except Exception as error:
        if "Invalid pretrained tag" in str(error):
            raise ConfigError(f"unknown weights in encoder {name!r}: {error} Leave out what follows the dot") from error
        if weights != "pretrained":
            raise
        raise BackendError(
            f"the pretrained weights of {name!r} could not be fetched from the hub ({type(error).__name__}); "
            "give a local file with --encoder-weights FILE, or --encoder-weights random to start from nothing"
        ) from error
    if hasattr(network, "pre_logits"):
        network.pre_logits = nn.Identity()  # VGG's fully connected layers: after the grid, and most of its size
    if weights not in ("pretrained", "random"):
        _load_weights(network, Path(weights), name)
    return Encoder(network, name, _preprocessing_of(network, timm, config))


def _preprocessing_of(network: nn.Module, timm: Any, config: ModelConfig) -> Preprocessing:
    own = timm.data.resolve_data_config(model=network)
    return Preprocessing(
        size=config.image_size or own["input_size"][-1],
        fit=config.fit,
        crop_fraction=own["crop_pct"],
        interpolation=config.interpolation or ("bilinear" if own["interpolation"] == "bilinear" else "bicubic"),
        mean=tuple(config.mean or own["mean"]),
        std=tuple(config.std or own["std"]),
    )


def _load_weights(network: Any, path: Path, name: str) -> None:
    """Fills the network from a local file; the classifier's rows may be there and are left out."""
    tensors = _read_state(path)
    classifiers = network.pretrained_cfg.get("classifier") or ()
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in wanted and not key.startswith((*heads, "pre_logits."))]
    if missing or extra:
        complaint = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the network does not"
        raise ConfigError(
            f"{path} does not hold weights of {name!r}: it {complaint} ({len(missing)} tensors missing, "
            f"{len(extra)} unknown); give a timm state dict of that network"
        )
    for key, tensor in wanted.items():
        if key not in tensors:
            continue
        if tensors[key].shape != tensor.shape:
            raise ConfigError(
                f"{key!r} in {path} has shape {tuple(tensors[key].shape)}, {name!r} needs {tuple(tensor.shape)}; "
                "the file is of another network"
            )
        if not torch.isfinite(tensors[key].float()).all():
            raise ConfigError(f"{key!r} in {path} holds NaN or infinite numbers; the file is damaged")
        tensor.copy_(tensors[key])


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return checkpoint.read_encoder(path)
    if not path.is_file():
        raise ConfigError(
            f"encoder weights {str(path)!r} are not a file; accepted are 'pretrained', 'random', or the path of a "
            ".safetensors file, of a PyTorch state dict or of a run whose encoder to start from"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # torch raises pickle's own exceptions for files that hold more than tensors
        raise ConfigError(f"{path} is refused: it is not a plain state dict ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ConfigError(f"{path} does not hold a state dict (a dictionary of tensors by name)")
    return state
