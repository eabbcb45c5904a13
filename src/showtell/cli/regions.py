"""`showtell regions` and `showtell ground`: what the parts of a picture show, and where the words of a sentence are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.cli.words import Deny, Neutral, read_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from showtell.boxes import Floats
    from showtell.proposals import Proposer
    from showtell.records import Grounding, RegionCaption

Picture = Annotated[str, typer.Argument(help="A picture file.", metavar="PICTURE")]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--boxes", help="Your own: x0,y0,x1,y1 in pixels, or a JSON file of them; may be repeated."),
]
Propose = Annotated[
    str,
    typer.Option("--propose", help="What finds boxes: windows, selective (needs OpenCV), or a detector's .onnx file."),
]
Labels = Annotated[Path | None, typer.Option("--labels", help="The names of the detector's classes, one a line.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write the picture with the boxes drawn in.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def regions(
    picture: Picture,
    model: Annotated[
        str, typer.Option("--model", "-m", help="An alignment model with [regions], or a captioner (box by box).")
    ] = "default",
    boxes: Boxes = None,
    propose: Propose = "windows",
    labels: Labels = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Regions to give, best first.")] = 10,
    beam: Annotated[int | None, typer.Option("--beam", min=1, help="Hypotheses a region.")] = None,
    deny: Deny = None,
    neutral: Neutral = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say what the parts of a picture show, a line a region: `x0,y0,x1,y1 score caption`.

    Example: showtell regions photo.jpg --top 5 --out annotated.png
    """
    from showtell.decoding import SearchOptions
    from showtell.regions import RegionCaptioner

    own, failed = _own_boxes(boxes, picture)
    describer = RegionCaptioner.load(model, words=read_words(deny, neutral))
    changes = {} if beam is None else {"beam": beam}
    options = SearchOptions(**{**describer.manifest.search, **changes})  # type: ignore[arg-type]
    found = describer.describe(picture, boxes=own, propose=_proposer(propose, labels), top=top, options=options)
    _tell(found, picture, out, as_json)
    if failed:
        raise typer.Exit(1)


def ground(
    picture: Picture,
    sentence: Annotated[
        str | None, typer.Argument(help="What is to be found. [default: what the model says]", metavar="[SENTENCE]")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="An alignment model, or a captioner.")] = "default",
    boxes: Boxes = None,
    propose: Propose = "windows",
    labels: Labels = None,
    smoothing: Annotated[
        float, typer.Option("--smoothing", min=0, help="How much neighbouring words keep together; 0: not at all.")
    ] = 0.3,
    out: Out = None,
    maps: Annotated[Path | None, typer.Option("--maps", help="Also write a picture with a map for each word.")] = None,
    as_json: Json = False,
) -> None:
    """Say where a picture shows the words of a sentence, a line a phrase: `x0,y0,x1,y1 score words`.

    Example: showtell ground photo.jpg "a dog catches a red ball" --out where.png --maps words.png
    """
    from showtell.images import read_image
    from showtell.regions import RegionCaptioner
    from showtell.report.annotated import draw_maps

    own, failed = _own_boxes(boxes, picture)
    grounder = RegionCaptioner.load(model)
    found = grounder.ground(picture, sentence, boxes=own, propose=_proposer(propose, labels), smoothing=smoothing)
    _tell(found, picture, out, as_json)
    if maps is not None:
        seen = grounder.map_words(picture, sentence)
        _save(draw_maps(read_image(picture), seen.words, seen.maps_TRC, box=seen.box), maps)
    if failed:
        raise typer.Exit(1)


def _own_boxes(given: list[str] | None, picture: str) -> tuple[Floats | None, bool]:
    """(the user's boxes that the picture has, whether some were refused); what is wrong is told on stderr."""
    import numpy as np

    from showtell.errors import DataError
    from showtell.images import read_sized
    from showtell.proposals import check_boxes, read_boxes

    if not given:
        return None, False
    _, (width, height) = read_sized(picture, draft=1)
    kept, findings = check_boxes(np.concatenate([read_boxes(text) for text in given]), width, height)
    for finding in findings:
        print(f"showtell: {finding.message}", file=sys.stderr)
    if not len(kept):
        raise DataError(f"none of the boxes lies in {picture}, which has {width} × {height} pixels")
    return kept, any(finding.breaks for finding in findings)


def _proposer(name: str, labels: Path | None) -> Proposer:
    from showtell.errors import ConfigError
    from showtell.proposals import selective_search, windows

    if name == "windows":
        return windows()
    if name == "selective":
        return selective_search()
    if not name.endswith(".onnx") or labels is None:
        raise ConfigError(
            f"--propose {name!r} is not understood; accepted are windows, selective, or a detector's .onnx file with "
            "--labels FILE"
        )
    from showtell.detectors import detector

    return detector(name, labels)


def _tell(found: Sequence[RegionCaption | Grounding], picture: str, out: Path | None, as_json: bool) -> None:
    from showtell.images import read_image
    from showtell.report.annotated import draw_boxes

    for one in found:
        edges = ",".join(f"{edge:.0f}" for edge in one.box)
        print(json.dumps(one.to_json(), ensure_ascii=False) if as_json else f"{edges} {one.score:.3f} {one.text}")
    if out is not None:
        _save(draw_boxes(read_image(picture), [one.box for one in found], [one.text for one in found]), out)


def _save(drawn: Image.Image, out: Path) -> None:
    from showtell.errors import DataError

    try:
        drawn.save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {out}: {error}; give a .png or .jpg in a folder that is there") from error
