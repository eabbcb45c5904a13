"""Makes a page of every notebook in `docs/`, with the outputs that it holds; nothing is run.

Its cells become Markdown: text as it is, code and what it printed as blocks, pictures as files beside the page. A
plugin would bring Jupyter and some forty packages with it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SECTION = "Guides"  # of the navigation
_PICTURES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def on_config(config: Any) -> Any:
    """Adds the notebooks to the navigation."""
    pages = [{_title(path): f"{path.stem}.md"} for path in sorted(Path(config.docs_dir).glob("*.ipynb"))]
    for section in config.nav or []:
        if SECTION in section:
            section[SECTION] += [page for page in pages if page not in section[SECTION]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Puts a page and its pictures in the place of each notebook."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = Path(notebook.src_uri).stem
        text, pictures = write_page(json.loads(Path(notebook.abs_src_path).read_text("utf-8")), name)
        files.remove(notebook)
        files.append(File.generated(config, f"{name}.md", content=text))
        for path, content in pictures.items():
            files.append(File.generated(config, path, content=content))
    return files


def write_page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """(Markdown of a notebook of format 4, its pictures by their paths)."""
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in notebook["cells"]:
        text = _join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
        elif cell["cell_type"] == "code" and text:
            parts += [_fence(text, "python"), *_outputs(cell.get("outputs", []), name, pictures)]
    return "\n\n".join(parts) + "\n", pictures


def _outputs(outputs: list[dict[str, Any]], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    for output in outputs:
        data = output.get("data", {})
        kind = next((kind for kind in _PICTURES if kind in data), None)
        if kind is not None:
            path = f"{name}-{len(pictures) + 1}.{_PICTURES[kind]}"
            content = _join(data[kind])
            pictures[path] = content.encode() if kind == "image/svg+xml" else base64.b64decode(content)
            yield f"![{_alternative(data)}]({path})"
            continue
        text = _join(output.get("text", data.get("text/plain", output.get("traceback", ""))))
        if text.strip():
            yield _fence(_COLOURS.sub("", text).rstrip(), "text")


def _alternative(data: dict[str, Any]) -> str:
    """What the notebook says in words of a picture; `<Figure size 640x480 …>` says nothing."""
    text = _join(data.get("text/plain", "")).strip()
    return "A plot of the code above" if not text or text.startswith("<") else text.replace("]", "").replace("\n", " ")


def _fence(text: str, language: str) -> str:
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or [""]))
    return f"{ticks}{language}\n{text}\n{ticks}"


def _title(path: Path) -> str:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    headings = (re.match(r"#\s+(.+)", _join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown")
    return next((found[1].strip() for found in headings if found), path.stem)


def _join(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
