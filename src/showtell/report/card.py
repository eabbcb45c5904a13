"""A bundle -> its model card: what it is, what it was trained on, how good it is, where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from showtell.bundle import Bundle, Manifest
from showtell.safewords import ALL

_CONSTANT = "`constant_CIDEr` is what the best single sentence, said of every picture, would score."


def write_card(bundle: Bundle, notes: str = "") -> str:
    """The card as Markdown; every number in it comes from the manifest.

    Args:
        notes: What a person adds, in Markdown; it ends the card.
    """
    manifest, training = bundle.manifest, bundle.manifest.training
    millions = sum(array.size for array in bundle.weights.values()) / 1e6
    stored = "/".join(sorted({str(array.dtype) for array in bundle.weights.values()}))
    aligns = "wide" in manifest.graphs
    kind, parts, scored, limits = _of_alignment(bundle) if aligns else _of_captioner(bundle)
    without_pictures = training.get("captions_without_pictures")
    search = ", ".join(f"{key} {value}" for key, value in manifest.search.items())
    further = f", and {without_pictures:,} captions without pictures" if without_pictures else ""
    lines = [
        f"# {manifest.name}",
        "",
        training.get("describe") or f"{kind}, trained with showtell.",
        "",
        *_table(
            "what",
            {
                **parts,
                "weights": f"{millions:.1f} million, {stored}",
                **({"search": search} if search else {}),
                "made by": f"showtell {manifest.package}, settings in `bundle.json`",
            },
        ),
        "## Training data",
        "",
        f"{training['pictures']:,} pictures with {training['captions']:,} captions{further}.",
        "",
        *(f"- {source}" for source in training.get("data", [])),
        "",
        *([training["licence"], ""] if training.get("licence") else []),
        "## Scores",
        "",
        scored,
        "",
        *_table("metric", _scores(manifest.scores)),
        *([] if aligns else [_CONSTANT, ""]),
        *_confidence(manifest.confidence),
        "## Limits",
        "",
        limits,
        "",
        *_reproduce(manifest),
        *([notes.strip(), ""] if notes.strip() else []),
    ]
    return "\n".join(lines)


def find_notes(bundle: Bundle) -> str:
    """What a person added to a bundle's card; nothing where the rest of it is not what `write_card` writes."""
    written = write_card(bundle)
    return bundle.card.removeprefix(written) if bundle.card.startswith(written) else ""


def _scores(scores: Mapping[str, Any]) -> dict[str, str]:
    """Each metric, with its interval where it has one."""
    told = {name: f"{value:.4f}" for name, value in scores["metrics"].items()}
    for name, (low, high) in scores.get("intervals", {}).items():
        told[name] += f" ({low:.4f} to {high:.4f})"
    return told


def _reproduce(manifest: Manifest) -> list[str]:
    command = manifest.training.get("command")
    if command is None:
        return []
    told = f"With showtell {manifest.package}, and the paths of these files and folders in place of their names:"
    return ["## How to reproduce", "", told, "", "```console", f"$ {command}", "```", ""]


def _of_captioner(bundle: Bundle) -> tuple[str, dict[str, str], str, str]:
    """(what it is, its parts, how it was scored, where it fails)."""
    manifest = bundle.manifest
    scores: dict[str, Any] = manifest.scores
    words = scores.get("words")
    parts = {
        "encoder": f"{manifest.encoder}, {manifest.preprocessing.size} px, {manifest.preprocessing.fit}",
        "decoder": f"{_decoder(bundle)}, {len(bundle.vocabulary)} words",
    }
    scored = (
        f"On {scores['n']:,} pictures of the `{scores['split']}` split, beam {scores['beam']}, "
        f"{words + ', ' if words else ''}PTB tokens, the COCO evaluation's definitions"
        + ("; in brackets 95 % intervals over pictures." if scores.get("intervals") else ".")
    )
    limits = (
        "It names what its training captions name and nothing else; pictures unlike those get a fluent and wrong "
        "sentence. A caption is a guess: check it before it stands for a picture that somebody cannot see."
    )
    if words == ALL:
        limits += " No list of safe words is in its language: nothing keeps it from judging people."
    elif words:
        limits += (
            " Safe words keep it from naming people's race, religion, health or looks in the phrases of a list, and in "
            "no others; whether somebody is a man or a woman it guesses, unless it is asked not to (`--neutral`)."
        )
    return "A captioner", parts, scored, limits


def _of_alignment(bundle: Bundle) -> tuple[str, dict[str, str], str, str]:
    manifest, scores = bundle.manifest, bundle.manifest.scores
    parts = {
        "encoder": f"{manifest.encoder}, {manifest.preprocessing.size} px; regions from {manifest.wide} px",
        "words": f"{len(bundle.vocabulary)}, read by a bidirectional GRU",
        "vectors": f"{manifest.config['alignment']['width']} numbers",
        **({"decoder of regions": _decoder(bundle)} if "step" in manifest.graphs else {}),
    }
    scored = (
        f"Finding captions by picture and pictures by caption, among the {scores['n']:,} pictures of the "
        f"`{scores['split']}` split and their captions."
    )
    limits = (
        "It knows the words of its training captions and pictures like theirs. What is found is what is nearest, also "
        "where nothing fits."
    )
    return "An alignment of pictures with sentences", parts, scored, limits


def _confidence(fitted: Mapping[str, Any]) -> list[str]:
    """What a caption's confidence means, and how well it was calibrated; nothing of a bundle of before it was."""
    if not fitted:
        return []
    if "skipped" in fitted:
        return ["## Confidence", "", f"Not calibrated: {fitted['skipped']}.", ""]
    return [
        "## Confidence",
        "",
        f"The probability that a caption is good: that its CIDEr-D is above {fitted['good_from']:.3f}, the lower "
        "quartile of people's captions, each against the others of its picture. Of the "
        f"{fitted['pictures']:,} captions it was calibrated on {fitted['good']:.0%} are. The expected calibration "
        f"error, by cross-validation in bins of as many captions each, is {fitted['ECE']:.3f}; honest probabilities "
        f"would have {fitted['ECE by chance']:.3f} on so many pictures, by chance. The geometric mean of the words' "
        f"probabilities has {fitted['ECE before']:.3f}.",
        "",
        *_table(
            "area under the ROC curve",
            {
                "good captions above others": f"{fitted['AUROC good']:.3f}",
                "these pictures above noise": f"{fitted['AUROC noise']:.3f}",
            },
        ),
    ]


def _decoder(bundle: Bundle) -> str:
    model = bundle.manifest.config["model"]
    layers = f"{model['layers']} × " if model.get("layers", 1) > 1 else ""
    cell = {"lstm": "LSTM", "gru": "GRU", "transformer": "Transformer"}[model.get("cell", "lstm")]
    return f"{layers}{cell} {model['hidden']}, conditioning `{model['conditioning']}`"


def _table(first: str, rows: Mapping[str, str]) -> list[str]:
    return [f"| {first} | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
