"""A bundle -> its model card: what it is, what it was trained on, how good it is, where it fails."""

from __future__ import annotations

from typing import Any

from showtell.bundle import Bundle


def write_card(bundle: Bundle) -> str:
    """The card as Markdown; every number in it comes from the manifest."""
    manifest = bundle.manifest
    if "wide" in manifest.graphs:
        return _alignment_card(bundle)
    model, training = manifest.config["model"], manifest.training
    scores: dict[str, Any] = manifest.scores
    layers = f"{model['layers']} × " if model.get("layers", 1) > 1 else ""
    cell = layers + {"lstm": "LSTM", "gru": "GRU", "transformer": "Transformer"}[model.get("cell", "lstm")]
    decoder = f"{cell} {model['hidden']}, conditioning `{model['conditioning']}`, {len(bundle.vocabulary)} words"
    millions = sum(array.size for array in bundle.weights.values()) / 1e6
    lines = [
        f"# {manifest.name}",
        "",
        training.get("describe") or "A captioner trained with showtell.",
        "",
        "| what | value |",
        "|---|---|",
        f"| encoder | {manifest.encoder}, {manifest.preprocessing.size} px, {manifest.preprocessing.fit} |",
        f"| decoder | {decoder} |",
        f"| weights | {millions:.1f} million, {_weights_type(bundle)} |",
        f"| search | {', '.join(f'{key} {value}' for key, value in manifest.search.items())} |",
        f"| made by | showtell {manifest.package}, settings in `bundle.json` |",
        "",
        "## Training data",
        "",
        f"{training['pictures']:,} pictures with {training['captions']:,} captions"
        + (
            f", and {training['captions_without_pictures']:,} captions without pictures"
            if training.get("captions_without_pictures")
            else ""
        )
        + ".",
        "",
        *(f"- {source}" for source in training.get("data", [])),
        "",
        *([training["licence"], ""] if training.get("licence") else []),
        "## Scores",
        "",
        f"On {scores['n']:,} pictures of the `{scores['split']}` split, beam {scores['beam']}, PTB tokens, the COCO "
        "evaluation's definitions.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in scores["metrics"].items()),
        "",
        "`constant_CIDEr` is what the best single sentence, said of every picture, would score.",
        "",
        "## Limits",
        "",
        "It names what its training captions name and nothing else; pictures unlike those get a fluent and wrong "
        "sentence. A caption is a guess: check it before it stands for a picture that somebody cannot see.",
        "",
    ]
    return "\n".join(lines)


def _alignment_card(bundle: Bundle) -> str:
    manifest = bundle.manifest
    training, scores = manifest.training, manifest.scores
    millions = sum(array.size for array in bundle.weights.values()) / 1e6
    lines = [
        f"# {manifest.name}",
        "",
        training.get("describe") or "An alignment of pictures with sentences, trained with showtell.",
        "",
        "| what | value |",
        "|---|---|",
        f"| encoder | {manifest.encoder}, {manifest.preprocessing.size} px; regions from {manifest.wide} px |",
        f"| words | {len(bundle.vocabulary)}, read by a bidirectional GRU |",
        f"| vectors | {manifest.config['alignment']['width']} numbers |",
        f"| weights | {millions:.1f} million, {_weights_type(bundle)} |",
        f"| made by | showtell {manifest.package}, settings in `bundle.json` |",
        "",
        "## Training data",
        "",
        f"{training['pictures']:,} pictures with {training['captions']:,} captions.",
        "",
        *(f"- {source}" for source in training.get("data", [])),
        "",
        *([training["licence"], ""] if training.get("licence") else []),
        "## Scores",
        "",
        f"Finding captions by picture and pictures by caption, among the {scores['n']:,} pictures of the "
        f"`{scores['split']}` split and their captions.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in scores["metrics"].items()),
        "",
        "## Limits",
        "",
        "It knows the words of its training captions and pictures like theirs. What is found is what is nearest, also "
        "where nothing fits.",
        "",
    ]
    return "\n".join(lines)


def _weights_type(bundle: Bundle) -> str:
    return "/".join(sorted({str(array.dtype) for array in bundle.weights.values()}))
