"""The benchmark beside the peers: operations are counted, rounds compared and targets judged as it says."""

from __future__ import annotations

import importlib.util
import sys
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def peers() -> ModuleType:
    return load_script(BENCH / "peers.py")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH / "peers"))
    return load_script(BENCH / "peers" / "showtell_default.py")


@pytest.fixture
def serving() -> ModuleType:
    return load_script(BENCH / "peers" / "serving.py")


def small_graph(groups: int = 1) -> bytes:
    """A convolution of 8 x 8 pixels with stride 2, and a product of its 6 channels with 5 numbers."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((6, 4 // groups, 3, 3), np.float32), "weight")
    matrix = numpy_helper.from_array(np.ones((6, 5), np.float32), "matrix")
    nodes = [
        helper.make_node("Conv", ["pixels", "weight"], ["seen"], strides=[2, 2], pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["seen"], ["bent"]),
        helper.make_node("Transpose", ["bent"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["turned", "matrix"], ["features"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 4, 8, 8])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", 4, 4, 5])
    graph = helper.make_graph(nodes, "small", [pixels], [features], [weight, matrix])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("groups", [1, 2])
def test_operations_are_two_a_multiplication(ours: ModuleType, groups: int) -> None:
    convolution = 6 * 4 * 4 * (4 // groups) * 3 * 3
    product = 4 * 4 * 6 * 5
    assert ours.count_flops(small_graph(groups)) == 2 * (convolution + product)


def test_a_turn_is_whole_calls_until_its_time_is_over(serving: ModuleType) -> None:
    given: list[list[bytes]] = []

    def caption(pictures: list[bytes]) -> list[int]:
        given.append(pictures)
        return [12, 6]

    works = {"captions": serving.Work(caption, 2)}
    pictures = cycle([b"a", b"b", b"c"])
    once = serving.do_work(works, {"work": "captions", "seconds": 0}, pictures)
    assert given == [[b"a", b"b"]]
    assert once["pictures"] == 2
    assert once["words"] == 9
    longer = serving.do_work(works, {"work": "captions", "seconds": 0.01}, pictures)
    assert given[1] == [b"c", b"a"]
    assert longer["seconds"] >= 0.01
    assert longer["pictures"] == 2 * (len(given) - 1)


def test_a_peer_is_held_against_its_neighbouring_turns(peers: ModuleType) -> None:
    class Server:
        def __init__(self, rates: list[float]) -> None:
            self.rates = iter(rates)

        def turn(self, work: str, seconds: float) -> dict[str, float]:
            return {"pictures": next(self.rates), "seconds": 1.0, "peak": 1.0, "words": 12.0, "others": 0.0}

    servers: dict[str, Any] = {
        "showtell": Server([100, 60, 40, 30, 50, 70]),
        "blip": Server([0.5, 0.5]),
        "git": Server([1, 1]),
    }
    found = {name: peers.Found() for name in servers}
    peers.measure_rates(found, servers, 2, 1.0)
    assert found["blip"].ratios == [160, 120]  # in the second round after git
    assert found["git"].ratios == [50, 40]


@pytest.mark.parametrize(("patience", "best", "others"), [(100.0, 2.0, 0.2), (0.0, 1.0, 1.0)])
def test_a_disturbed_turn_is_taken_again(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, patience: float, best: float, others: float
) -> None:
    moments = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    busy = iter([10.0, 12.0, 12.0, 13.0, 13.0, 14.5])  # cores, before and after each take
    monkeypatch.setattr(peers.Patience, "_wait", lambda self: None)
    monkeypatch.setattr(peers, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(moments))
    turns = iter([{"cpu": 1.0, "turn": 1.0}, {"cpu": 0.8, "turn": 2.0}, {"cpu": 1.0, "turn": 3.0}])
    took = peers.Patience(patience).measure(lambda: next(turns))
    assert took["turn"] == best
    assert took["others"] == pytest.approx(others)


@pytest.mark.parametrize(("faster", "met"), [(150.0, True), (149.9, False)])
def test_targets_are_judged(peers: ModuleType, faster: float, met: bool) -> None:
    ours = peers.Found(about={"disk": 17.0}, first=[0.5], first_memory=[120.0])
    blip = peers.Found(about={"disk": 900.0}, ratios=[faster], first=[9.0], first_memory=[1300.0])
    own = {"path to encoder": [0.6], "path to encoder, one batch": [0.6], "beam 5 to greedy, time": [1.5]}
    told = {what: good for what, _, _, good in peers.judge({"showtell": ours, "blip": blip}, own)}
    assert told["captions/s, times blip's"] is met
    assert told["first caption, of blip's"] is True
    assert told["whole path, of the encoder alone"] is False
    assert told["beam 5, of greedy's time"] is True
    assert not any("git" in what for what in told)


def test_peers_are_chosen_by_name(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "keras" else object())
    assert peers.choose("git,keras") == ["showtell", "git"]
    assert "keras is left out; it needs: pip install keras" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="unknown peer 'clip'; accepted are blip, git"):
        peers.choose("clip")
