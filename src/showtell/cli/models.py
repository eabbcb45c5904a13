"""`showtell models`: the bundles that come with the package, and the card of any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from showtell.bundle import Manifest


def models(
    model: Annotated[
        str | None, typer.Argument(help="Show the card of this bundle: an embedded one's name, a directory or a zip.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model, with all its scores.")] = False,
) -> None:
    """List the models that come along, or show the card of one.

    Example: showtell models default
    """
    from showtell.bundle import list_embedded, read_bundle

    bundles = [read_bundle(name) for name in ([model] if model is not None else list_embedded())]
    for bundle in bundles:
        if as_json:
            print(json.dumps(_sum_up(bundle.manifest), ensure_ascii=False))
        elif model is not None:
            print(bundle.card.rstrip())
        else:
            print(f"{bundle.manifest.name}: {bundle.manifest.training.get('describe', '')}")


def _sum_up(manifest: Manifest) -> dict[str, Any]:
    training = {name: manifest.training.get(name) for name in ("describe", "licence", "data", "command")}
    return {"model": manifest.name, **training, "scores": manifest.scores, "confidence": manifest.confidence}
