"""The notebook runs from its first cell to its last, shows what it says it shows, and agrees with the toolkit."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel", reason="needs ipykernel, which runs the notebook")
pytest.importorskip("matplotlib", reason="needs the extra 'report'")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which brings nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, which runs the notebook")

from showtell import Captioner  # noqa: E402
from showtell.bundle import read_bundle  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "from-picture-to-caption.ipynb"

# Runs after the last cell, in the same kernel, and says what the cells before it found.
PROBE = """
import json
print(json.dumps({
    "pictures": [str(path) for path in paths],
    "captions": [caption.text for caption in captions],
    "by_hand": said_by_hand,
    "concepts": concepts,
    "likeliest": [concepts[c] for c in likely.argmax(1)],
    "cat_lost_at": [int(place) for place in np.unravel_index(lost[0][words_of_cat.index("cat")].argmax(), (7, 7))],
    "word_losses": dict(zip(words_of_cat, [float(abs(grid).max()) for grid in lost[0]])),
    "points": [float(value) for value in points],
    "pointing": None if torch is None else dict(hits=float(hits), chance=float(chance), right=float(right)),
}))
"""


def read_committed() -> Any:
    return nbformat.read(NOTEBOOK, 4)


def code_cells(notebook: Any, tag: str | None = None) -> list[Any]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if tag is None or tag in cell.metadata.get("tags", [])]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def has_plot(cell: Any) -> bool:
    return any("image/jpeg" in output.get("data", {}) for output in cell.outputs)


def sentences(cell: Any) -> str:
    """What a cell printed, without its numbers, whose last digits are the machine's."""
    return " ".join(re.sub(r"-?\d[\d.,]*(e[-+]\d+)?", "#", printed(cell)).split())


@pytest.fixture(scope="module")
def quiet_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels of this environment that read no settings of the user, leave nothing in their home and draw inline."""
    home = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(variable, str(home / variable.lower()))
        patch.delenv("MPLBACKEND", raising=False)
        yield


def execute(notebook: Any, folder: Path) -> Any:
    """The notebook with new outputs; raises `CellExecutionError` with the traceback of a cell that fails."""
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


@pytest.fixture(scope="module")
def executed(quiet_kernel: None) -> Any:
    """The notebook, run in its own folder, and one cell more, which prints what it found as JSON."""
    notebook = copy.deepcopy(read_committed())
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    return execute(notebook, NOTEBOOK.parent)


@pytest.fixture(scope="module")
def found(executed: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(printed(executed.cells[-1]))
    return facts


def test_it_says_what_the_captioner_says(found: dict[str, Any]) -> None:
    expected = [caption.text for caption in Captioner.load("default").caption(found["pictures"])]
    assert found["captions"] == expected
    assert len(set(expected)) == len(expected) == 4


def test_its_own_beam_search_finds_the_same_captions(found: dict[str, Any]) -> None:
    assert found["by_hand"] == found["captions"]


def test_cells_that_should_plot_do(executed: Any) -> None:
    wanted = code_cells(executed, "plot")
    assert len(wanted) >= 10
    if find_spec("torch") is None:
        wanted = [cell for cell in wanted if "torch" not in cell.metadata.tags]
    assert [cell.source.split("\n")[0] for cell in wanted if not has_plot(cell)] == []


def test_what_is_hidden_costs_content_words_more_than_grammar(found: dict[str, Any]) -> None:
    assert found["likeliest"][0] == "cat"
    row, column = found["cat_lost_at"]
    assert 1 <= row <= 5
    assert 1 <= column <= 5
    grammar, content = (max(found["word_losses"][word] for word in words) for words in (("on", "of"), ("cat", "bed")))
    assert content > 2 * grammar


def test_learned_attention_points_at_what_is_named(found: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    pointing = found["pointing"]
    assert pointing["chance"] < 0.2
    assert pointing["hits"] > 0.5
    assert pointing["right"] > 0.5


def test_a_sentence_that_names_the_thing_scores_higher(found: dict[str, Any]) -> None:
    of_the_model, of_a_person = found["points"]
    assert 0 < of_the_model < of_a_person


def test_the_concepts_fit_the_bundle(found: dict[str, Any]) -> None:
    bundle = read_bundle("default")
    numbers = [bundle.vocabulary.id_of(word) for word in found["concepts"]]
    assert len(numbers) == len(bundle.weights["start/decoder.decoder.concepts.head.bias.half"])
    assert numbers == sorted(set(numbers))


def test_the_concepts_are_those_of_the_training_captions(found: dict[str, Any], shared_data: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from showtell.datasets import read_all, read_captions
    from showtell.learn.concepts import choose_concepts
    from showtell.learn.config import read_config

    folders = [shared_data / name for name in ("coco", "coco2k", "flickr8k")]
    pairs = [example for example in read_all(folders, notice=lambda finding: None) if example.references]
    held_out = {Path(example.id).stem for example in pairs if example.split != "train"}
    texts = (
        shared_data / "coco" / "annotations" / "captions_val2017.json",
        shared_data / "flickr8k" / "Flickr8k_text" / "Flickr8k.token.txt",
    )
    alone = [example for text in texts for example in read_captions(text) if Path(example.id).stem not in held_out]
    train = [example for example in pairs if example.split == "train"]
    chosen = choose_concepts([*train, *alone], read_bundle("default").vocabulary, read_config("mobile").concepts)
    assert found["concepts"] == chosen


def test_committed_outputs_are_of_these_cells(executed: Any) -> None:
    committed = read_committed()
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for old, new in zip(cells, code_cells(executed)[:-1], strict=True):
        if "torch" not in old.metadata.get("tags", []):  # what training prints may differ between machines
            assert sentences(old) == sentences(new), f"run the notebook again and keep it: {old.source[:60]!r}"
        assert has_plot(old) == ("plot" in old.metadata.get("tags", []))


def test_the_file_is_light_and_names_no_machine() -> None:
    assert NOTEBOOK.stat().st_size < 1_000_000
    for cell in code_cells(read_committed()):
        assert {output.output_type for output in cell.outputs} <= {"stream", "display_data"}
        assert all(output.name == "stdout" for output in cell.outputs if output.output_type == "stream")
        assert str(ROOT.parent) not in cell.source + printed(cell)


def test_without_pytorch_its_cells_say_so_and_the_rest_runs_from_the_root(quiet_kernel: None) -> None:
    notebook = copy.deepcopy(read_committed())
    cells = code_cells(notebook)
    blocked = nbformat.v4.new_code_cell("import sys\nsys.modules['torch'] = None  # as if it were not installed")
    learned = [cell for cell in cells if "torch" in cell.metadata.get("tags", [])]
    notebook.cells = [blocked, cells[0], *code_cells(notebook, "scenes"), *learned]
    execute(notebook, ROOT)
    said = "".join(printed(cell) for cell in learned)
    assert "PyTorch is not installed" in said
    assert len(learned) >= 3
