"""The body of a request -> the picture files in it, in memory, within limits; nothing touches the disk.

A body is `multipart/form-data` with one or several files, or the bytes of one picture as `image/*` or
`application/octet-stream`. Bytes are counted as they come, those of one request and those of all together, and a body
that comes too slowly is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from showtell.images import MEBIBYTE
from showtell.web.batching import Overloaded
from showtell.web.problems import Problem

_LONGEST_NAME = 120  # characters of a file's name that answers repeat
_ACCEPTED = "send files as multipart/form-data, or one picture as image/* or application/octet-stream"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a request, and what messages call it."""

    name: str
    data: bytes


class Intake:
    """Receives the bodies of requests, and keeps count of the bytes of all that are being answered.

    Args:
        body: Bytes of a request at most.
        held: Bytes of all requests that are being answered, at most.
        files: Of a request at most.
        seconds: For a body to arrive.
    """

    def __init__(self, *, body: int, held: int, files: int, seconds: float) -> None:
        self._body, self._held, self._files, self._seconds = body, held, files, seconds
        self.bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[list[Upload]]:
        """The files of a request; their bytes count as held until the end of the block.

        Raises:
            Problem: It is too large, too slow, of another type, broken, or has no file.
            Overloaded: The server holds too much already.
        """
        async with self._body_of(request) as chunks:
            try:
                async with asyncio.timeout(self._seconds):
                    uploads = await self._read(request, chunks)
            except TimeoutError as error:
                raise self._slow() from error
            yield uploads

    @asynccontextmanager
    async def receive_text(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it is; as `receive`."""
        async with self._body_of(request) as chunks:
            try:
                async with asyncio.timeout(self._seconds):
                    text = await _join(chunks)
            except TimeoutError as error:
                raise self._slow() from error
            yield text

    @asynccontextmanager
    async def _body_of(self, request: Request) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        declared = request.headers.get("content-length", "")
        held = int(declared) if declared.isdigit() else 0
        self._check(held, held)
        self.bytes += held

        async def count() -> AsyncGenerator[bytes, None]:
            nonlocal held
            come = 0
            async for chunk in request.stream():
                come += len(chunk)
                more = max(0, come - held)
                self._check(come, more)
                held += more
                self.bytes += more
                yield chunk

        try:
            yield count()
        finally:
            self.bytes -= held

    def _check(self, size: int, more: int) -> None:
        if size > self._body:
            raise Problem(
                "too-large",
                f"the request has more than {self._body / MEBIBYTE:.3g} MiB, which is the most that is accepted; "
                "send fewer or smaller pictures",
            )
        if self.bytes + more > self._held:
            raise Overloaded("other uploads take all the memory that the service gives to them; ask again in 1 s", 1)

    def _slow(self) -> Problem:
        return Problem(
            "slow-upload", f"the body of the request did not arrive within {self._seconds:g} s; send smaller pictures"
        )

    async def _read(self, request: Request, chunks: AsyncGenerator[bytes, None]) -> list[Upload]:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media == "multipart/form-data":
            uploads = await self._read_parts(request, chunks)
        elif media.startswith("image/") or media == "application/octet-stream":
            uploads = [Upload("picture", await _join(chunks))]
        else:
            raise Problem("unsupported-media", f"the content type {media[:80]!r} is not accepted; {_ACCEPTED}")
        if not uploads:
            raise Problem("invalid-request", f"the request has no picture; {_ACCEPTED}")
        return uploads

    async def _read_parts(self, request: Request, chunks: AsyncGenerator[bytes, None]) -> list[Upload]:
        parser = MultiPartParser(request.headers, chunks, max_files=self._files, max_fields=1)
        parser.spool_max_size = self._body + 1  # what would be more than that is refused before: nothing is spooled
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise Problem(
                    "too-large", f"the request has more than {self._files} files; send them in several requests"
                ) from error
            raise Problem("bad-request", f"the body is no form as it should be: {error.message}") from error
        try:
            fields = [name for name, value in form.multi_items() if not isinstance(value, UploadFile)]
            if fields:
                raise Problem(
                    "invalid-request",
                    f"the form has the field {fields[0][:80]!r}, which is no file; options go into the address, as in "
                    "?beam=5&top=3",
                )
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [Upload(_name(file.filename, number), await file.read()) for number, file in enumerate(files, 1)]
        finally:
            await form.close()


def _name(given: str | None, number: int) -> str:
    """The file's name without folders and signs that cannot be shown."""
    last = (given or "").replace("\\", "/").rpartition("/")[2]
    return "".join(sign for sign in last if sign.isprintable())[:_LONGEST_NAME] or f"picture {number}"


async def _join(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
