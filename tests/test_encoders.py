"""Encoders by name, their preprocessing, and weight files from anywhere."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from showtell.errors import BackendError, ConfigError, TrainingError  # noqa: E402
from showtell.learn import checkpoint  # noqa: E402
from showtell.learn.config import ModelConfig  # noqa: E402
from showtell.learn.encoders import Encoder, _import_timm, build_encoder, list_encoders  # noqa: E402

timm = _import_timm()

# name: (image size of the test, D, rows = columns at that size, the network's own size)
NAMED = {
    "vgg16": (64, 512, 2, 224),
    "inception_v3": (107, 2048, 2, 299),
    "resnet50": (64, 2048, 2, 224),
    "mobilenetv2_100": (64, 1280, 2, 224),
    "efficientnet_b0": (64, 1280, 2, 224),
    "convnext_tiny": (64, 768, 2, 224),
}


@functools.cache
def built(name: str) -> Encoder:
    """Shared by the tests of this file; put back what you change."""
    torch.manual_seed(0)
    return build_encoder(ModelConfig(encoder=name, encoder_weights="random", image_size=NAMED[name][0]))


def tiny(**options: Any) -> Encoder:
    return build_encoder(ModelConfig(encoder="test_resnet", image_size=64, **{"encoder_weights": "random", **options}))


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """A state dict as timm writes it, classifier included."""
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", pretrained=False)
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_network_gives_a_grid_of_its_last_stage(name: str) -> None:
    size, width, side, _ = NAMED[name]
    encoder = built(name)
    assert (encoder.width, encoder.rows, encoder.columns) == (width, side, side)
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features_BLD = encoder(pixels)
        mean = torch.tensor(encoder.preprocessing.mean)
        std = torch.tensor(encoder.preprocessing.std)
        inputs = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        grid = encoder.network.forward_features(inputs)
    assert features_BLD.shape == (2, side * side, width)
    assert features_BLD.dtype == torch.float32
    tolerance = 1e-3 * float(grid.abs().max())  # untrained networks give large numbers
    for cell in range(side * side):  # row by row
        row, column = divmod(cell, side)
        np.testing.assert_allclose(features_BLD[:, cell], grid[:, :, row, column], rtol=0, atol=tolerance)
    assert not torch.allclose(features_BLD[0], features_BLD[1])


@pytest.mark.parametrize("pictures", [0, 1, 11])
def test_pieces_of_a_batch_give_what_the_batch_gives(pictures: int) -> None:
    torch.manual_seed(2)
    encoder, pixels = tiny(), torch.randint(0, 256, (pictures, 64, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(encoder.encode(pixels), encoder(pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_preprocessing_is_timms_own_of_the_weights(name: str) -> None:
    own = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    preprocessing = built(name).preprocessing
    assert preprocessing.mean == tuple(own["mean"])
    assert preprocessing.std == tuple(own["std"])
    assert preprocessing.interpolation == own["interpolation"]
    assert preprocessing.crop_fraction == own["crop_pct"]
    assert own["input_size"][-1] == NAMED[name][3]


def test_image_size_mean_and_std_are_the_networks_unless_the_configuration_says_otherwise() -> None:
    own = build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random")).preprocessing
    assert own.size == 160  # timm's record of test_resnet
    assert own.fit == "squash"
    told = tiny(fit="crop", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).preprocessing
    assert (told.size, told.fit, told.mean, told.std) == (64, "crop", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("name", NAMED)
def test_no_classifier_is_left(name: str) -> None:
    network = built(name).network
    whole = timm.create_model(name, pretrained=False) if name in ("mobilenetv2_100", "efficientnet_b0") else None
    assert not any(isinstance(module, nn.Linear) and module.out_features == 1000 for module in network.modules())
    assert not any(key.startswith(("pre_logits.", "fc.", "classifier.", "head.fc.")) for key in network.state_dict())
    if whole is not None:
        removed = {key for key in whole.state_dict() if key not in network.state_dict()}
        assert removed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2_100"])
def test_batch_normalisation_stays_in_evaluation_mode(name: str) -> None:
    encoder = built(name)
    encoder.train()
    try:
        norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert not any(norm.training for norm in norms)
        assert encoder.training
        assert encoder.network.training
        before = norms[0].running_mean.clone()
        encoder(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
        assert torch.equal(before, norms[0].running_mean)
    finally:
        encoder.eval()


@pytest.mark.parametrize("name", NAMED)
def test_top_parameters_are_those_after_the_frozen_stage(name: str) -> None:
    encoder = built(name)
    named = {id(parameter): key for key, parameter in encoder.network.named_parameters()}
    stages = len(encoder.network.feature_info)
    groups = [[named[id(parameter)] for parameter in encoder.top_parameters(count)] for count in range(stages + 1)]
    assert groups[0] == []
    assert groups[-1] == list(named.values())
    for fewer, more in pairwise(groups):
        assert more[len(more) - len(fewer) :] == fewer  # each is the tail of the next
        assert len(more) >= len(fewer)
    if name == "resnet50":
        assert {key.split(".")[0] for key in groups[1]} == {"layer4"}
        assert {key.split(".")[0] for key in groups[2]} == {"layer3", "layer4"}
        assert {key.split(".")[0] for key in groups[4]} == {"layer1", "layer2", "layer3", "layer4"}  # all but the stem
    if name == "mobilenetv2_100":
        assert {".".join(key.split(".")[:2]) for key in groups[1] if "blocks" in key} == {"blocks.5", "blocks.6"}
        assert "conv_head.weight" in groups[1]
    if name == "vgg16":  # its last two stages end in one another's pooling; the one below has three convolutions
        assert [key for key in groups[2] if key.endswith("weight")] == [
            f"features.{number}.weight" for number in (24, 26, 28)
        ]


def test_top_parameters_change_the_features_and_the_frozen_ones_do_not_move() -> None:
    encoder = tiny()
    encoder.requires_grad_(False)
    for parameter in encoder.top_parameters(1):
        parameter.requires_grad_(True)
    encoder(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)).pow(2).sum().backward()
    touched = {key.split(".")[0] for key, parameter in encoder.network.named_parameters() if parameter.grad is not None}
    assert touched == {"layer4"}


def test_the_fingerprint_follows_weights_and_preprocessing() -> None:
    torch.manual_seed(1)
    one = tiny()
    torch.manual_seed(1)
    same = tiny()
    assert one.fingerprint() == same.fingerprint()
    torch.manual_seed(1)
    assert tiny(fit="pad").fingerprint() != one.fingerprint()
    other = tiny(interpolation="bicubic")
    assert (one.preprocessing.interpolation, other.preprocessing.interpolation) == ("bilinear", "bicubic")
    assert other.fingerprint() != one.fingerprint()
    with torch.no_grad():
        next(same.network.parameters())[0, 0, 0, 0] += 1e-3
    assert same.fingerprint() != one.fingerprint()


# weight files


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested", "ordered", "no classifier", "no counters"])
def test_a_local_file_fills_the_network(kind: str, state: dict[str, Any], tmp_path: Path) -> None:
    content: Any = state
    if kind == "nested":
        content = {"epoch": 3, "state_dict": state}
    elif kind == "ordered":
        content = OrderedDict(state)
    elif kind == "no classifier":
        content = {key: value for key, value in state.items() if not key.startswith("fc.")}
    elif kind == "no counters":
        content = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    path = write(tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth"), content)
    encoder = tiny(encoder_weights=str(path))
    loaded = encoder.network.state_dict()
    assert "fc.weight" in state
    assert "fc.weight" not in loaded
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


def test_the_encoder_of_another_run_is_started_from(state: dict[str, Any], tmp_path: Path) -> None:
    network = tiny().network.state_dict()
    with pytest.raises(TrainingError, match=r"has no encoder\.safetensors: no run is there"):
        tiny(encoder_weights=str(tmp_path))
    checkpoint.write_weights(tmp_path / "encoder.safetensors", network)
    checkpoint.write_weights(tmp_path / "best.safetensors", {"words.weight": torch.zeros(5, 2)})
    loaded = tiny(encoder_weights=str(tmp_path)).network.state_dict()
    assert all(torch.equal(loaded[key], network[key]) for key in network)
    tuned = {key: tensor + 1 for key, tensor in network.items()}
    named = {f"encoder.{key}": tensor for key, tensor in tuned.items()}
    checkpoint.write_weights(tmp_path / "best.safetensors", {"words.weight": torch.zeros(5, 2), **named})
    loaded = tiny(encoder_weights=str(tmp_path)).network.state_dict()
    assert all(torch.equal(loaded[key], tuned[key]) for key in tuned)


def test_float16_weights_are_computed_with_in_float32(state: dict[str, Any], tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    encoder = tiny(encoder_weights=str(write(tmp_path / "w.safetensors", half)))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_a_file_of_another_network_is_named(state: dict[str, Any], tmp_path: Path) -> None:
    other = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    path = write(tmp_path / "other.safetensors", other)
    with pytest.raises(ConfigError, match=r"other\.safetensors does not hold weights of 'test_resnet': it lacks '.*'"):
        tiny(encoder_weights=str(path))
    more = write(tmp_path / "more.pth", {**state, "layer9.weight": torch.zeros(2)})
    with pytest.raises(ConfigError, match=r"it has 'layer9.weight', which the network does not \(0 tensors missing, 1"):
        tiny(encoder_weights=str(more))
    shaped = write(tmp_path / "shaped.pth", {**state, "conv1.0.weight": torch.zeros(1, 2, 3, 3)})
    with pytest.raises(ConfigError, match=r"'conv1.0.weight' in .*shaped\.pth has shape \(1, 2, 3, 3\).*another net"):
        tiny(encoder_weights=str(shaped))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(value: float, state: dict[str, Any], tmp_path: Path) -> None:
    bad = {key: tensor.clone() for key, tensor in state.items()}
    bad["layer2.0.conv1.weight"].view(-1)[5] = value
    path = write(tmp_path / "bad.safetensors", bad)
    with pytest.raises(ConfigError, match=r"'layer2.0.conv1.weight' in .*bad\.safetensors holds NaN or infinite"):
        tiny(encoder_weights=str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_a_truncated_file_is_refused(suffix: str, keep: int, state: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / f"cut{suffix}", state)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=rf"cut\{suffix} (cannot be read as weights|is refused)"):
        tiny(encoder_weights=str(path))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "sprung")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_holds_a_class_is_refused_and_not_run(
    legacy: bool, state: dict[str, Any], tmp_path: Path
) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pth"
    content = {**state, "extra": Trap(sprung)}
    if legacy:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"trap\.pth is refused: it is not a plain state dict"):
        tiny(encoder_weights=str(path))
    assert not sprung.exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap works


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "list.pth", [torch.zeros(2)])
    with pytest.raises(ConfigError, match=r"list\.pth does not hold a state dict"):
        tiny(encoder_weights=str(path))
    numbered = write(tmp_path / "numbered.pth", {0: torch.zeros(2)})
    with pytest.raises(ConfigError, match=r"numbered\.pth does not hold a state dict"):
        tiny(encoder_weights=str(numbered))
    with pytest.raises(ConfigError, match=r"'nothere\.pth' are not a file; accepted are 'pretrained', 'random', or"):
        tiny(encoder_weights="nothere.pth")


def test_the_given_mobilenet_loads_and_sees(shared_data: Path) -> None:
    from showtell.images import read_pixels

    config = ModelConfig(
        encoder="mobilenetv2_100",
        encoder_weights=str(shared_data / "encoders" / "mobilenetv2_100.safetensors"),
        encoder_options={"pad_type": "same"},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    encoder = build_encoder(config)
    assert (encoder.width, encoder.rows, encoder.columns) == (1280, 7, 7)
    from safetensors.torch import load_file

    rows = load_file(config.encoder_weights)  # its classifier, in ImageNet's order
    cat = read_pixels(Path(__file__).parents[1] / "examples" / "cat.jpg", encoder.preprocessing)
    with torch.inference_mode():
        pooled = encoder(torch.from_numpy(cat[None])).mean(1)
        logits = pooled @ rows["classifier.weight"].float().T + rows["classifier.bias"].float()
    assert 281 <= int(logits.argmax()) <= 285  # ImageNet's cats


# names


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("resnet51", "resnet50"),
        ("resnt50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("efficientnetb0", "efficientnet_b0"),
        ("inceptionv3", "inception_v3"),
        ("convnext_tinny", "convnext_tiny"),
    ],
)
def test_a_misspelt_name_is_told_from_its_neighbour(misspelt: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown encoder '{misspelt}'; did you mean '{meant}'\? \('showtell enc"):
        build_encoder(ModelConfig(encoder=misspelt))


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(ConfigError, match=r"unknown encoder 'zzzzqqqq'; \('showtell encoders'"):
        build_encoder(ModelConfig(encoder="zzzzqqqq"))


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_weights_that_do_not_exist_are_no_network_trouble(weights: str) -> None:
    with pytest.raises(ConfigError, match=r"'resnet50\.xyz'.*xyz"):
        build_encoder(ModelConfig(encoder="resnet50.xyz", encoder_weights=weights))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_without_a_grid_in_front_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*choose a convolutional network"):
        build_encoder(ModelConfig(encoder=name, encoder_weights="random"))


def test_a_picture_too_small_for_the_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'inception_v3' does not take pictures of 32 px.*choose another image_size"):
        build_encoder(ModelConfig(encoder="inception_v3", encoder_weights="random", image_size=32))


def test_options_that_the_network_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'test_resnet' does not take these encoder_options.*colour"):
        tiny(encoder_options={"colour": "red"})


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **keywords: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", fails)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", fails)
    sentence = r"weights of 'test_resnet' could not be fetched from the hub \(ConnectionError\); give a local file with"
    with pytest.raises(BackendError, match=sentence):
        tiny(encoder_weights="pretrained")


def test_the_list_of_encoders_is_sorted_and_filtered() -> None:
    names = list_encoders("mobilenetv2")
    assert "mobilenetv2_100" in names
    assert names == sorted(names)
    assert all("mobilenetv2" in name for name in names)
    assert set(NAMED) <= set(list_encoders())


def test_timm_can_be_imported_in_a_fresh_process() -> None:
    code = (
        "from showtell.learn.encoders import _import_timm, list_encoders;"
        "_import_timm(); _import_timm(); print('resnet50' in list_encoders('resnet'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
