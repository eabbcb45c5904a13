"""Where alt text stands in the metadata of a picture: what is read of it, and what is written.

Written are, in the default language of XMP:

    Iptc4xmpCore:AltTextAccessibility   the alt text (IPTC photo metadata standard 2021.1)
    dc:description                      the same, where photo managers look for a caption
    IFD0:ImageDescription               the same, on request (EXIF; not in WebP)
    showtell:AltText                    the same once more, in the namespace `urn:showtell:alt#`
    showtell:AltTextModel               the model that wrote it

What equals `showtell:AltText` was written by this package and may be renewed; any other text is a person's, also where
a person has mended a text of ours. A person's caption in any of the places where captions are looked for (also
IPTC-IIM and PNG's Description) keeps `dc:description` as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The namespace, as exiftool asks for it.
CONFIG = """
%Image::ExifTool::UserDefined = (
    'Image::ExifTool::XMP::Main' => {
        showtell => { SubDirectory => { TagTable => 'Image::ExifTool::UserDefined::showtell' } },
    },
);
%Image::ExifTool::UserDefined::showtell = (
    GROUPS => { 0 => 'XMP', 1 => 'XMP-showtell', 2 => 'Image' },
    NAMESPACE => { 'showtell' => 'urn:showtell:alt#' },
    WRITABLE => 'string',
    AltText => { },
    AltTextModel => { },
);
1;
"""
_ALT = "XMP-iptcCore:AltTextAccessibility"
_OURS = "XMP-showtell:AltText"
_CAPTIONS = (
    "XMP-dc:Description",
    "IFD0:ImageDescription",
    "IPTC:Caption-Abstract",
    "PNG:Description",
    "PNG-iTXt:Description",
)
READ = ("XMP-iptcCore:all", "XMP-showtell:all", *_CAPTIONS)
# What cameras write there by themselves.
_CAMERAS = frozenset({
    "olympus digital camera", "sony dsc", "minolta digital camera", "kodak digital still camera", "digital camera",
    "samsung digital camera", "samsung camera pictures", "digital still camera", "default", "exif_jpeg_picture",
    "dcim", "charset=ascii", "<digimax i6 pmp, samsung #1>",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """What the metadata of a picture says.

    Attributes:
        alt: The alt text, of any language.
        caption: The description, wherever it stands.
        ours: What this package wrote last.
    """

    alt: str | None = None
    caption: str | None = None
    ours: str | None = None

    @property
    def by_a_person(self) -> bool:
        """Whether somebody else wrote the alt text."""
        return self.alt is not None and self.alt != self.ours


def describe(row: Mapping[str, Any]) -> Described:
    """What the fields named in `READ` say, by their names."""

    def text_of(tag: str) -> str | None:
        for name, value in row.items():
            # Other languages than the default one have names such as XMP-dc:Description-fr.
            text = str(value).strip()
            if (name == tag or name.startswith(f"{tag}-")) and text and text.lower() not in _CAMERAS:
                return text
        return None

    ours = text_of(_OURS)
    captions = [caption for caption in map(text_of, _CAPTIONS) if caption is not None]
    by_people = [caption for caption in captions if caption != ours]
    return Described(text_of(_ALT), next(iter(by_people or captions), None), ours)


def assign(text: str, found: Described, model: str, *, overwrite: bool, exif: bool) -> list[str]:
    """The arguments with which exiftool writes alt text by this model where so far stands what was found.

    Args:
        overwrite: A person's caption is replaced too.
        exif: It goes into EXIF too.
    """
    values = {_ALT: text, _OURS: text, "XMP-showtell:AltTextModel": model}
    if overwrite or found.caption is None or found.caption == found.ours:
        values["XMP-dc:Description"] = text
        if exif:
            values["IFD0:ImageDescription"] = text
    return [f"-{tag}={value}" for tag, value in values.items()]
