"""exiftool as a process that stays open: fields of files in, copies of files with other fields out.

It never sees the name of a file: it reads a link, and writes a copy, in a folder of its own. So no name can be misread,
taken for an option, or overwritten.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from showtell.errors import BackendError, DataError

_SECONDS = 30.0  # that exiftool may take for one picture
_INSTALL = (
    "install it: 'apt install libimage-exiftool-perl' on Debian and Ubuntu, 'brew install exiftool' on macOS, "
    "'winget install OliverBetz.ExifTool' on Windows"
)


class ExifTool:
    """Reads and edits the fields of files; the process runs from the first file to `close`.

    Args:
        config: A configuration in exiftool's own language, such as a namespace of XMP.

    Raises:
        BackendError: There is no exiftool.
    """

    def __init__(self, config: str) -> None:
        program = shutil.which("exiftool")
        if program is None:
            raise BackendError(f"writing the metadata of pictures needs exiftool; {_INSTALL}")
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="showtell-"))
        (self._folder / "config").write_text(config, "utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._late = False

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, path: Path, kind: str | None, tags: Iterable[str]) -> dict[str, Any]:
        """{group:name: value} of those of these fields that a file has.

        Args:
            kind: The suffix that exiftool expects of such a file; None of an unknown one.

        Raises:
            DataError: It cannot be read, or is damaged.
        """
        with self._lent(path, kind) as name:
            out, err = self._run(["-j", "-G1", *(f"-{tag}" for tag in tags), name], path)
        try:
            rows = json.loads(out) if out.strip() else [{}]
        except ValueError as error:
            raise DataError(f"{path} has metadata that exiftool cannot print; get the file again") from error
        if not rows or "ExifTool:Error" in rows[0] or (not out.strip() and err.strip()):
            reason = _reason(str(rows[0].get("ExifTool:Error", "") if rows else "") or err)
            raise DataError(f"the metadata of {path} cannot be read ({reason}); get the file again")
        row: dict[str, Any] = rows[0]
        return row

    def edit(self, arguments: list[str], kind: str, source: Path | bytes | None, path: Path) -> bytes:
        """What these assignments make of a file, or of its content, or of nothing.

        Args:
            kind: The suffix that exiftool expects of such a file.
            path: What messages name.

        Raises:
            DataError: exiftool does not write it.
        """
        made = self._folder / f"out.{kind}"
        made.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            lent = [] if source is None else [stack.enter_context(self._lent(source, kind))]
            _, err = self._run(["-q", "-o", made.name, *arguments, *lent], path)
        try:
            return made.read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"exiftool does not write {path} ({_reason(err)}); use --into sidecars, or mend the file"
            ) from None
        finally:
            made.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lent(self, source: Path | bytes, kind: str | None) -> Iterator[str]:
        """The name under which exiftool finds a file; one it can neither misread nor be misled by."""
        lent = self._folder / f"in.{kind or 'bin'}"
        lent.unlink(missing_ok=True)
        if isinstance(source, bytes):
            lent.write_bytes(source)
        else:
            _link(source, lent)
        try:
            yield lent.name
        finally:
            lent.unlink(missing_ok=True)

    def _run(self, arguments: list[str], path: Path) -> tuple[str, str]:
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
            self._stop()
            raise DataError(f"exiftool {reason} at {path}; the file is probably damaged: it was left alone") from error
        finally:
            watch.cancel()
        errors.seek(told)
        return out[: out.rindex(b"{ready1}")].decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")

    def _stop(self) -> None:
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


def _link(path: Path, link: Path) -> None:
    if not path.is_file():
        missing = "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"{path} {missing}; check the path")
    try:
        try:
            link.symlink_to(path.absolute())
        except (OSError, NotImplementedError):  # Windows allows links to few
            shutil.copyfile(path, link)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error


def _reason(told: str) -> str:
    lines = [line.strip() for line in told.split("\n") if line.strip()]
    errors = [line for line in lines if line.startswith("Error")] or lines or ["no reason given"]
    return errors[0].removeprefix("Error: ").rsplit(" - ", 1)[0]
