"""What a fresh process imports: the core stays light. (`make lint` holds the import contracts.)"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TRAINING = {"torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib"}
HEAVY = TRAINING | {"numpy", "PIL", "onnxruntime", "pydantic", "typer", "rich", "safetensors"}


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a new process holds after a statement."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    found = imported_by("import showtell")
    assert "showtell" in found
    assert not found & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "showtell.captioner",
        "showtell.evaluation",
        "showtell.datasets",
        "showtell.metrics",
        "showtell.images",
        "showtell.text",
        "showtell.bundle",
        "showtell.cli.commands",
        "showtell.learn",
        "showtell.report.card",
    ],
)
def test_the_core_does_not_import_the_training_stack(module: str) -> None:
    assert not imported_by(f"import {module}") & TRAINING


def test_the_names_of_the_package_load_when_they_are_used() -> None:
    assert imported_by("from showtell import Captioner") >= {"onnxruntime", "numpy"}
    assert not imported_by("from showtell import Caption") & {"onnxruntime", "torch"}
    program = "import showtell\nfor name in showtell.__all__: getattr(showtell, name)\nshowtell.Captionner"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "AttributeError: module 'showtell' has no attribute 'Captionner'" in done.stderr


def test_the_command_starts_without_the_networks() -> None:
    assert not imported_by("import showtell.cli.commands") & (TRAINING | {"onnxruntime", "numpy", "PIL"})
