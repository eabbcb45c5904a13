"""Alt text -> the metadata of pictures (JPEG, PNG, WebP, TIFF) or a sidecar `.xmp`, through exiftool.

Written are, in the default language of XMP:

    Iptc4xmpCore:AltTextAccessibility   the alt text (IPTC photo metadata standard 2021.1)
    dc:description                      the same, where photo managers look for a caption
    IFD0:ImageDescription               the same, on request (EXIF; not in WebP)
    showtell:AltText                    the same once more, in the namespace `urn:showtell:alt#`
    showtell:AltTextModel               the model that wrote it

What equals `showtell:AltText` was written by this package and may be renewed; any other text is a person's, also where
a person has mended a text of ours. A person's caption in any of the places where captions are looked for (also
IPTC-IIM and PNG's Description) keeps `dc:description` as it is.

No pixel is touched: exiftool writes a copy, of which every part that is not metadata must have the same bytes as in the
picture (JPEG, PNG, WebP) or the same samples when decoded (TIFF, whose parts move). Only then does the copy take the
picture's place, at once, with its permissions, owner and extended attributes. Its time of change becomes the present,
so that backups and indexes notice, unless that of before is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import struct
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from PIL import Image, ImageSequence

from showtell.errors import BackendError, DataError
from showtell.images import DEFAULT_LIMITS, Source
from showtell.jobs.alttext import AltText, Describer
from showtell.records import Failure

State = Literal["written", "kept", "unsure", "failed"]

_SECONDS = 30.0  # that exiftool may take for one picture
_INSTALL = (
    "install it: 'apt install libimage-exiftool-perl' on Debian and Ubuntu, 'brew install exiftool' on macOS, "
    "'winget install OliverBetz.ExifTool' on Windows"
)
_NAMESPACE = "urn:showtell:alt#"
_CONFIG = f"""
%Image::ExifTool::UserDefined = (
    'Image::ExifTool::XMP::Main' => {{
        showtell => {{ SubDirectory => {{ TagTable => 'Image::ExifTool::UserDefined::showtell' }} }},
    }},
);
%Image::ExifTool::UserDefined::showtell = (
    GROUPS => {{ 0 => 'XMP', 1 => 'XMP-showtell', 2 => 'Image' }},
    NAMESPACE => {{ 'showtell' => '{_NAMESPACE}' }},
    WRITABLE => 'string',
    AltText => {{ }},
    AltTextModel => {{ }},
);
1;
"""
_ALT = "XMP-iptcCore:AltTextAccessibility"
_CAPTIONS = (
    "XMP-dc:Description",
    "IFD0:ImageDescription",
    "IPTC:Caption-Abstract",
    "PNG:Description",
    "PNG-iTXt:Description",
)
# What cameras write there by themselves.
_CAMERAS = frozenset({
    "olympus digital camera", "sony dsc", "minolta digital camera", "kodak digital still camera", "digital camera",
    "samsung digital camera", "samsung camera pictures", "digital still camera", "default", "exif_jpeg_picture",
    "dcim", "charset=ascii", "<digimax i6 pmp, samsung #1>",
})  # fmt: skip
_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"II*\0", "tif"), (b"MM\0*", "tif"))


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


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """Where alt text goes, and what it may replace.

    Attributes:
        sidecar: Into `photo.jpg.xmp` instead of the picture.
        exif: Into EXIF's ImageDescription too (of JPEG, PNG and TIFF).
        renew: Replace texts that this package wrote.
        overwrite: Replace texts that people wrote too.
        keep_time: The picture keeps its time of change.
        dry: Nothing is written.
        model: What is said to have written the text.
    """

    sidecar: bool = False
    exif: bool = False
    renew: bool = False
    overwrite: bool = False
    keep_time: bool = False
    dry: bool = False
    model: str = "showtell"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a picture.

    Attributes:
        state: `written` (with `dry`: would be), `kept` (it has alt text), `unsure` (the model is), or `failed`.
        text: The alt text that it has now.
        error: Why it failed.
    """

    image: str
    state: State
    text: str | None = None
    confidence: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"image": self.image, "state": self.state}
        if self.text is not None:
            out["alt"] = self.text
        if self.confidence is not None:
            out["confidence"] = round(self.confidence, 4)
        if self.error is not None:
            out["error"] = self.error
        return out


def describe_pictures(
    paths: Iterable[Path], describe: Describer, metadata: Metadata, options: WriteOptions
) -> Iterator[Outcome]:
    """Writes alt text into pictures that have none, and says of each picture, in order, what became of it.

    Only pictures that want a text are captioned. Any number of pictures takes the same memory.
    """
    waiting: deque[tuple[Path, Outcome | None]] = deque()

    def wanting() -> Iterator[Source]:
        for path in paths:
            known = _look(path, metadata, options)
            waiting.append((path, known))
            if known is None:
                yield path

    for said in describe(wanting()):
        while (known := waiting[0][1]) is not None:
            waiting.popleft()
            yield known
        yield _put(waiting.popleft()[0], said, metadata, options)
    for _, known in waiting:
        if known is not None:
            yield known


def _look(path: Path, metadata: Metadata, options: WriteOptions) -> Outcome | None:
    """What is known of a picture without captioning it; None where it wants a text."""
    try:
        found = metadata.read(path)
    except DataError as error:
        return Outcome(str(path), "failed", error=str(error))
    free = found.alt is None or (options.overwrite if found.by_a_person else options.renew or options.overwrite)
    return None if free else Outcome(str(path), "kept", found.alt)


def _put(path: Path, said: AltText | Failure, metadata: Metadata, options: WriteOptions) -> Outcome:
    if isinstance(said, Failure):
        return Outcome(str(path), "failed", error=said.error)
    if said.text is None:
        return Outcome(str(path), "unsure", confidence=said.confidence)
    try:
        changed = metadata.write(path, said.text, options)
    except DataError as error:
        return Outcome(str(path), "failed", error=str(error))
    return Outcome(str(path), "written" if changed else "kept", said.text, said.confidence)


def sidecar_of(path: Path) -> Path:
    """`photo.jpg.xmp` beside `photo.jpg`, as darktable and digiKam name it."""
    return path.with_name(f"{path.name}.xmp")


class Metadata:
    """Reads and writes the alt text of pictures; one exiftool runs from the first picture to `close`.

    Use it in a `with`. It never sees the name of a picture: it reads a link, and writes a copy, in a folder of its own.

    Raises:
        BackendError: There is no exiftool.
    """

    def __init__(self) -> None:
        program = shutil.which("exiftool")
        if program is None:
            raise BackendError(f"writing the metadata of pictures needs exiftool; {_INSTALL}")
        self._folder = Path(tempfile.mkdtemp(prefix="showtell-"))
        (self._folder / "config").write_text(_CONFIG, "utf-8")
        self._tool = _ExifTool(program, self._folder)

    def __enter__(self) -> Metadata:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends exiftool and removes its folder."""
        self._tool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, path: Path) -> Described:
        """What a picture and its sidecar say; the sidecar comes first.

        Raises:
            DataError: The picture cannot be read, or is damaged.
        """
        with self._lent(path, _kind(path)) as name:
            inside = self._describe(name, path)
        sidecar = sidecar_of(path)
        if not sidecar.is_file():
            return inside
        with self._lent(sidecar, "xmp") as name:
            beside = self._describe(name, sidecar)
        return Described(beside.alt or inside.alt, beside.caption or inside.caption, beside.ours or inside.ours)

    def write(self, path: Path, text: str, options: WriteOptions) -> bool:
        """Puts alt text into a picture or its sidecar; False where the same is there.

        A description that a person wrote stays, unless `options.overwrite`.

        Raises:
            DataError: The picture cannot be changed, or not without touching its pixels; it is as it was.
        """
        place = sidecar_of(path) if options.sidecar else path
        place = Path(os.path.realpath(place))
        fresh = options.sidecar and not place.exists()
        kind = "xmp" if options.sidecar else _kind(place)
        if kind is None:
            raise DataError(
                f"{path} is no JPEG, PNG, WebP or TIFF; --into sidecars writes its alt text into a file beside it"
            )
        found = self.read(path)
        arguments = _assignments(text, found, options)
        if found.alt == text and found.ours == text and not options.exif:
            return False
        if options.dry:
            return True
        before = None if fresh else _read(place)
        if before is not None and not os.access(place, os.W_OK):
            raise DataError(f"{place} is write-protected; change its permissions, or use --into sidecars")
        if before is None:
            after = self._edit(arguments, kind, None, place)
        elif kind == "webp":
            after = self._edit_webp(arguments, before, place)
        else:
            with self._lent(place, kind) as name:
                after = self._edit(arguments, kind, name, place)
        if before is not None and kind != "xmp":
            _check_unchanged(before, after, kind, place)
        if before is not None and _read(place) != before:
            raise DataError(f"{place} was changed by another program meanwhile; run the command again")
        try:
            replace_file(place, after, keep_time=options.keep_time)
        except OSError as error:
            raise DataError(f"cannot write {place} ({error.strerror or error}); it is as it was") from error
        return True

    def _describe(self, name: str, path: Path) -> Described:
        wanted = ["-XMP-iptcCore:all", "-XMP-showtell:all", *(f"-{tag}" for tag in _CAPTIONS)]
        out, err = self._tool.run(["-j", "-G1", *wanted, name], path)
        try:
            rows = json.loads(out) if out.strip() else [{}]
        except ValueError as error:
            raise DataError(f"{path} has metadata that exiftool cannot print; get the file again") from error
        if not rows or "ExifTool:Error" in rows[0] or (not out.strip() and err.strip()):
            reason = _reason(str(rows[0].get("ExifTool:Error", "")) if rows else "" or err)
            raise DataError(f"the metadata of {path} cannot be read ({reason}); get the file again")
        return _described(rows[0])

    def _edit(self, arguments: list[str], kind: str, name: str | None, path: Path) -> bytes:
        """What exiftool makes of a file of its folder, or of nothing."""
        made = self._folder / f"out.{kind}"
        made.unlink(missing_ok=True)
        _, err = self._tool.run(["-q", "-o", made.name, *arguments, *([name] if name else [])], path)
        try:
            return made.read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"exiftool does not write {path} ({_reason(err)}); use --into sidecars, or mend the file"
            ) from None
        finally:
            made.unlink(missing_ok=True)

    def _edit_webp(self, arguments: list[str], data: bytes, path: Path) -> bytes:
        """As `_edit`, of the XMP alone: exiftool writes WebP only from 12.58 on, which distributions lack."""
        arguments = [argument for argument in arguments if argument.startswith("-XMP")]
        try:
            chunks = _webp_chunks(data)
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); it was left alone") from error
        packet = next((chunk for name, chunk in chunks if name == b"XMP "), None)
        if packet is None:
            packet = self._edit(arguments, "xmp", None, path)
        else:
            source = self._folder / "packet.xmp"
            source.write_bytes(packet)
            packet = self._edit(arguments, "xmp", source.name, path)
        return _with_xmp(chunks, packet)

    @contextlib.contextmanager
    def _lent(self, path: Path, kind: str | None) -> Iterator[str]:
        """The name under which exiftool finds a file; one it can neither misread nor be misled by."""
        if not path.is_file():
            missing = "is no regular file" if path.exists() else "does not exist"
            raise DataError(f"{path} {missing}; check the path")
        link = self._folder / f"in.{kind or 'bin'}"
        link.unlink(missing_ok=True)
        try:
            try:
                link.symlink_to(path.absolute())
            except (OSError, NotImplementedError):  # Windows allows links to few
                shutil.copyfile(path, link)
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error
        try:
            yield link.name
        finally:
            link.unlink(missing_ok=True)


class _ExifTool:
    """exiftool that stays open: arguments in, a line each, what it printed out."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._late = False

    def run(self, arguments: list[str], path: Path) -> tuple[str, str]:
        """(stdout, stderr) of one command.

        Raises:
            DataError: It died or took too long; the next command has a new one.
            BackendError: It cannot be started.
        """
        if any("\n" in argument or "\r" in argument for argument in arguments):
            raise ValueError("an argument of exiftool has more than one line")
        process, errors = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        told = errors.seek(0, io.SEEK_END)
        lines = ["-charset", "utf8", "-charset", "exif=utf8", "-charset", "iptc=utf8", *arguments, "-execute1"]
        watch = threading.Timer(_SECONDS, self._kill)
        watch.start()
        out = bytearray()
        try:
            process.stdin.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
            process.stdin.flush()
            while not out.endswith((b"{ready1}\n", b"{ready1}\r\n")):
                line = process.stdout.readline()
                if not line:
                    raise BrokenPipeError
                out += line
        except OSError as error:
            reason = f"did not finish in {_SECONDS:.0f} seconds" if self._late else "stopped"
            self.close()
            raise DataError(f"exiftool {reason} at {path}; the file is probably damaged: it was left alone") from error
        finally:
            watch.cancel()
        errors.seek(told)
        return out[: out.rindex(b"{ready1}")].decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.write(b"-stay_open\nFalse\n")
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._process is None or self._errors is None:
            self._late = False
            self._errors = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (closed with the process)
            try:
                self._process = subprocess.Popen(
                    [self._program, "-config", "config", "-stay_open", "True", "-@", "-"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    cwd=self._folder,
                )
            except OSError as error:
                raise BackendError(f"cannot start exiftool ({error.strerror or error}); {_INSTALL}") from error
        return self._process, self._errors

    def _kill(self) -> None:
        self._late = True
        if self._process is not None:
            self._process.kill()


def replace_file(path: Path, data: bytes, *, keep_time: bool = False) -> None:
    """Puts new content into a file, which is there as a whole before and after, with its permissions and owner.

    Raises:
        OSError: It cannot be written; it is as it was.
    """
    partial = path.with_name(f".showtell-{secrets.token_hex(8)}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            status = path.stat()
            with contextlib.suppress(OSError, AttributeError):
                os.chown(partial, status.st_uid, status.st_gid)  # before the mode, of which it may clear bits
            shutil.copystat(path, partial)
            if not keep_time:
                os.utime(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _assignments(text: str, found: Described, options: WriteOptions) -> list[str]:
    values = {_ALT: text, "XMP-showtell:AltText": text, "XMP-showtell:AltTextModel": options.model}
    if options.overwrite or found.caption is None or found.caption == found.ours:
        values["XMP-dc:Description"] = text
        if options.exif and not options.sidecar:
            values["IFD0:ImageDescription"] = text
    return [f"-{tag}={value}" for tag, value in values.items()]


def _described(row: Mapping[str, Any]) -> Described:
    def text_of(tag: str) -> str | None:
        for name, value in row.items():
            # Other languages than the default one have names such as XMP-dc:Description-fr.
            text = str(value).strip()
            if (name == tag or name.startswith(f"{tag}-")) and text and text.lower() not in _CAMERAS:
                return text
        return None

    captions = (text_of(tag) for tag in _CAPTIONS)
    ours = text_of("XMP-showtell:AltText")
    written = [caption for caption in captions if caption is not None]
    person = [caption for caption in written if caption != ours]
    return Described(text_of(_ALT), next(iter(person or written), None), ours)


def _reason(told: str) -> str:
    lines = [line.strip() for line in told.split("\n") if line.strip()]
    errors = [line for line in lines if line.startswith("Error")] or lines or ["no reason given"]
    return errors[0].removeprefix("Error: ").rsplit(" - ", 1)[0]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > DEFAULT_LIMITS.max_bytes:
            raise DataError(f"{path} has more than {DEFAULT_LIMITS.max_bytes:,} bytes; use --into sidecars")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error


def _kind(path: Path) -> str | None:
    """The format that the first bytes say a file has, as the suffix that exiftool expects; None of another one."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


# What is not metadata must be the same


def _check_unchanged(before: bytes, after: bytes, kind: str, path: Path) -> None:
    """Refuses a copy that shows anything else.

    Raises:
        DataError: A part that is not metadata differs, or the picture is too damaged to say.
    """
    parts = {"jpg": _jpeg_parts, "png": _png_parts, "webp": _webp_parts, "tif": _tiff_parts}[kind]
    try:
        same = parts(before) == parts(after)
    except Exception as error:  # decoders raise whatever their parsers stumble on
        raise DataError(f"{path} is damaged ({error or type(error).__name__}); it was left alone") from error
    if not same:
        raise DataError(f"exiftool would change more of {path} than its metadata; it was left alone: --into sidecars")


def _jpeg_parts(data: bytes) -> list[bytes]:
    """Every segment but EXIF, XMP and the index of further pictures, and all from the first scan on."""
    parts = [_turn(data)]
    at = 2
    while True:
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] == b"\xff":
            at += 1
        if data[at : at + 1] != b"\xff":
            raise ValueError("a segment does not begin where the one before ends")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at : at + 2 + length]
        if marker == 0xDA:
            return [*parts, data[at:]]
        if length < 2 or len(segment) < 2 + length:
            raise ValueError("a segment is cut off")
        metadata = marker == 0xE1 or (marker == 0xE2 and segment[4:8] == b"MPF\0")
        if not metadata:
            parts.append(segment)
        at += 2 + length


def _png_parts(data: bytes) -> list[bytes]:
    """Every chunk but text, EXIF and the time, and what follows the last."""
    parts, at = [_turn(data), data[:8]], 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError("a chunk is cut off")
        if name not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"):
            parts.append(chunk)
        at += 12 + length
        if name == b"IEND":
            return [*parts, data[at:]]
    raise ValueError("its end is missing")


def _webp_parts(data: bytes) -> list[bytes]:
    """Every chunk but EXIF, XMP and the header that announces them, and what the picture decodes to."""
    chunks = [name + chunk for name, chunk in _webp_chunks(data) if name not in (b"VP8X", b"EXIF", b"XMP ")]
    return [_turn(data), *chunks, *_decoded(data)]


def _webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, content) of each chunk.

    Raises:
        ValueError: One is cut off.
    """
    chunks, at, end = [], 12, 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError("its end is missing")
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise ValueError("a chunk is cut off")
        chunks.append((name, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if not chunks:
        raise ValueError("it has no picture")
    return chunks


def _with_xmp(chunks: list[tuple[bytes, bytes]], packet: bytes) -> bytes:
    """A WebP of these chunks and an XMP packet, in its extended form.

    Source: WebP Container Specification, "Extended File Format".
    """
    if chunks[0][0] == b"VP8X":
        head = bytearray(chunks[0][1])
        rest = [chunk for chunk in chunks[1:] if chunk[0] != b"XMP "]
    else:
        name, content = chunks[0]
        if name == b"VP8L":  # after a byte of signature: 14 bits of width - 1, 14 of height - 1, 1 of alpha
            bits = int.from_bytes(content[1:5], "little")
            width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
        else:  # after 6 bytes of frame tag and start code: 14 bits of width, 2 of scale, the same of height
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 6))
            width, height, alpha = width - 1, height - 1, 0
        head = bytearray([alpha << 4, 0, 0, 0, *width.to_bytes(3, "little"), *height.to_bytes(3, "little")])
        rest = chunks
    head[0] |= 0x04  # there is XMP
    body = b"WEBP"
    for name, content in [(b"VP8X", bytes(head)), *rest, (b"XMP ", packet)]:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff_parts(data: bytes) -> list[bytes]:
    return [_turn(data), *_decoded(data)]


def _decoded(data: bytes) -> Iterator[bytes]:
    with Image.open(io.BytesIO(data), formats=("WEBP", "TIFF")) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield f"{frame.mode} {frame.size} {frame.info.get('duration')}".encode()
            yield hashlib.sha256(frame.tobytes()).digest()


def _turn(data: bytes) -> bytes:
    """The EXIF orientation, which is metadata that shows."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "TIFF")) as picture:
        return str(picture.getexif().get(0x0112, 1)).encode()
