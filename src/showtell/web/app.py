"""The routes of `showtell serve`: what they take and what they answer.

Every request passes the `guard` first. Then its body is received (`uploads`), its pictures are decoded in threads, and
the batcher's thread runs the models. A client that leaves takes what has not begun with it. Nothing is fetched from an
address, and no other site may read an answer (no CORS).
"""

# Annotations are evaluated as they stand here: those of the routes hold the limits of one server.

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError

from showtell.errors import ImageError
from showtell.records import Caption, Failure
from showtell.web.guard import ClientLeft, Guard
from showtell.web.metrics import MEDIA_TYPE as METRICS_TYPE
from showtell.web.problems import MEDIA_TYPE, Problem, ProblemDetails, install_problems, invalid
from showtell.web.schemas import Captions, Matches, Models, Regions, SearchQuestion, Status
from showtell.web.service import Boxes, CaptionTask, Catalogue, RegionTask, SearchTask, Service
from showtell.web.uploads import Intake, Upload

STATIC = Path(__file__).parent / "static"

_T = TypeVar("_T")
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)
_REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'self'"
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["files"],
        "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}
_PICTURE_BODY = {"multipart/form-data": _FORM, "image/*": _PICTURE, "application/octet-stream": _PICTURE}


def create_app(service: Service, *, key: str | None = None, hosts: frozenset[str] | None = None) -> FastAPI:
    """The application of a service; its shutdown closes the service.

    Args:
        key: What clients must send as `Authorization: Bearer KEY`; None: nothing.
        hosts: The names by which browsers may call the server; None: any. It keeps pages of other sites from reaching
            a server on this machine under a name of theirs.
    """
    limits = service.limits
    intake = Intake(body=limits.body, held=limits.held, files=limits.files, seconds=limits.seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close, limits.seconds)

    app = FastAPI(
        title="showtell",
        description="Looks at pictures and says what they show.",
        version=version("showtell"),
        docs_url=None,  # both pages load their scripts from other machines
        redoc_url=None,
        lifespan=lifespan,
        responses={
            "4XX": {"model": ProblemDetails, "content": {MEDIA_TYPE: {}}, "description": "What is not accepted."},
            "5XX": {"model": ProblemDetails, "content": {MEDIA_TYPE: {}}, "description": "What did not work."},
        },
    )
    install_problems(app)
    app.add_middleware(Guard, service=service, key=key, hosts=hosts)

    # Whoever has the key is told this address: a frame cannot send a header.
    secret = secrets.token_urlsafe(18)
    report = None if service.report is None else f"/reports/{secret}"

    async def answer(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
        return await _attend(request, work, limits.seconds)

    @app.post(
        "/v1/captions",
        response_model=Captions,
        summary="Caption pictures",
        openapi_extra={"requestBody": {"required": True, "content": _PICTURE_BODY}},
    )
    async def captions(
        request: Request,
        beam: Annotated[int | None, Query(ge=1, le=limits.beam, description="Hypotheses; 1 is greedy.")] = None,
        top: Annotated[int, Query(ge=1, le=limits.beam, description="Captions of each picture.")] = 1,
        length_penalty: Annotated[float | None, Query(ge=0, le=10, description="Above 0, longer captions win.")] = None,
        maps: Annotated[bool, Query(description="Tell where each word comes from too.")] = False,
    ) -> Response:
        """One file that cannot be read is a problem; of several, each has its caption or its error."""
        options = service.options(beam, top, length_penalty)
        service.batcher.check_room()
        async with intake.receive(request) as uploads:
            said = await answer(request, _caption(service, uploads, CaptionTask(options, maps)))
            failures = [one for one in said if isinstance(one, Failure)]
            if len(failures) == len(said):
                more = {"results": [one.to_json() for one in failures]} if len(said) > 1 else {}
                raise Problem("picture-not-accepted", failures[0].error, more=more)
            results = [_caption_json(one) for one in said]
            if maps:
                await _add_maps(service, uploads, said, results)
        return JSONResponse({"model": service.manifest.name, "results": results})

    @app.post(
        "/v1/regions",
        response_model=Regions,
        response_model_exclude_unset=True,
        summary="Describe parts of a picture",
        openapi_extra={"requestBody": {"required": True, "content": _PICTURE_BODY}},
    )
    async def regions(
        request: Request,
        boxes: Annotated[
            list[str] | None,
            Query(max_length=limits.regions, description="Your own: x0,y0,x1,y1 in pixels; may be repeated."),
        ] = None,
        top: Annotated[int, Query(ge=1, le=limits.regions, description="Regions to give, best first.")] = 10,
        beam: Annotated[int | None, Query(ge=1, le=limits.beam, description="Hypotheses a region.")] = None,
    ) -> Response:
        """Without boxes, the model looks for parts that are worth describing."""
        options = service.options(beam, 1)
        own = None if boxes is None else tuple(map(_box, boxes))
        service.batcher.check_room()
        async with intake.receive(request) as uploads:
            upload = _only(uploads)
            described = await answer(
                request, _describe(service, upload, own, partial(RegionTask, top, options=options))
            )
        content = [one.to_json() for one in described]
        return JSONResponse({"model": service.manifest.name, "image": upload.name, "regions": content})

    @app.post(
        "/v1/search",
        response_model=Matches,
        summary="Find pictures of the index",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SearchQuestion.model_json_schema()}, **_PICTURE_BODY},
            }
        },
    )
    async def search(
        request: Request,
        top: Annotated[int, Query(ge=1, le=limits.found, description="Pictures to give, best first.")] = 20,
    ) -> Response:
        """The pictures that a sentence describes (JSON), or those like a picture (any other body)."""
        _need_index(service)
        service.batcher.check_room()
        if _media_type(request) == "application/json":
            async with intake.receive_text(request) as text:
                question = _question(text, limits.sentence, limits.found)
            work = _search(service, question.sentence, SearchTask(question.top or top))
            found = await answer(request, work)
        else:
            async with intake.receive(request) as uploads:
                found = await answer(request, _search(service, _only(uploads), SearchTask(top)))
        results = [{**one.to_json(), "picture": one.row, "thumbnail": f"/v1/pictures/{one.row}"} for one in found]
        return JSONResponse({"results": results})

    @app.get("/v1/pictures/{row}", summary="A small JPEG of a picture of the index", response_class=Response)
    async def picture(
        row: int, size: Annotated[int, Query(ge=16, le=limits.thumbnail, description="Longest side.")] = 256
    ) -> Response:
        catalogue = _need_index(service)
        path = catalogue.index.path_of(row)
        if path is None:
            raise Problem("not-found", f"the index has no picture {row}; take the number from the answer of a search")
        try:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(service.readers, service.thumbnail, path, size)
        except ImageError as error:
            raise Problem("not-found", f"picture {row} of the index cannot be shown any more: {error}") from error
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/v1/models", response_model=Models, summary="What runs here, and its limits")
    async def models() -> Response:
        return JSONResponse({**_describe_models(service), "report": report})

    @app.get("/reports/{told}", include_in_schema=False)
    async def scores(told: str) -> Response:
        if service.report is None or not secrets.compare_digest(told.encode(), secret.encode()):
            raise Problem("not-found", "there is no such report; take its address from /v1/models")
        if not service.report.is_file():
            raise Problem("not-found", f"{service.report} is gone; write it again with: showtell report")
        return FileResponse(service.report, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.get("/healthz", response_model=Status, summary="Whether the process works")
    async def health() -> Response:
        if not service.batcher.alive:
            raise Problem("not-ready", "the thread of the models has ended; start the server again")
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=Status, summary="Whether requests are accepted now")
    async def ready() -> Response:
        service.batcher.check_room()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Counts for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        gauges = {
            "showtell_queue_items": ("Items in the queue, and announced.", service.batcher.taken),
            "showtell_queue_limit": ("Items that the queue takes.", limits.queue),
            "showtell_upload_bytes": ("Bytes of the requests that are being answered.", intake.bytes),
        }
        return Response(service.metrics.text(gauges), media_type=METRICS_TYPE)

    if (STATIC / "index.html").is_file():
        app.mount("/static", StaticFiles(directory=STATIC), name="static")

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return FileResponse(
                STATIC / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
            )

    return app


# The work of a request


async def _caption(service: Service, uploads: Sequence[Upload], task: CaptionTask) -> list[Caption | Failure]:
    loop = asyncio.get_running_loop()
    with service.batcher.reserve(len(uploads)) as places:

        async def one(upload: Upload) -> Caption | Failure:
            try:
                pixels = await loop.run_in_executor(service.readers, service.read_picture, upload.data, upload.name)
            except ImageError as error:
                places.forgo()
                return Failure(upload.name, str(error))
            said: Caption | Failure = await asyncio.wrap_future(places.submit(task, (upload.name, pixels)))
            return said

        results = await asyncio.gather(*map(one, uploads), return_exceptions=True)
    said = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        said.append(result)
    return said


async def _add_maps(
    service: Service, uploads: Sequence[Upload], said: Sequence[Caption | Failure], results: list[dict[str, Any]]
) -> None:
    loop = asyncio.get_running_loop()
    for upload, one, result in zip(uploads, said, results, strict=True):
        if isinstance(one, Caption):
            result["maps"] = None if one.maps is None else np.round(one.maps.astype(np.float64), 5).tolist()
            box = await loop.run_in_executor(service.readers, service.place_maps, upload.data, upload.name)
            result["maps_box"] = box and [round(edge, 5) for edge in box]


async def _describe(
    service: Service, upload: Upload, boxes: Boxes | None, task: Callable[..., RegionTask]
) -> Sequence[Any]:
    loop = asyncio.get_running_loop()
    with service.batcher.reserve(1) as places:
        kept = await loop.run_in_executor(service.readers, service.check_boxes, upload.data, upload.name, boxes)
        found: Sequence[Any] = await asyncio.wrap_future(places.submit(task(boxes=kept), upload.data, alone=True))
        return found


async def _search(service: Service, query: str | Upload, task: SearchTask) -> Sequence[Any]:
    loop = asyncio.get_running_loop()
    with service.batcher.reserve(1) as places:
        item: Any = query
        if isinstance(query, Upload):
            item = await loop.run_in_executor(service.readers, service.read_example, query.data, query.name)
        found: Sequence[Any] = await asyncio.wrap_future(places.submit(task, item))
        return found


async def _attend(request: Request, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """What the work gives, unless the client leaves before, or it takes too long: then it is given up.

    Raises:
        Problem: It took too long.
        ClientLeft: Nobody waits for it any more.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientLeft
        raise Problem(
            "not-in-time",
            f"the answer was not ready after {seconds:g} s; send fewer pictures, or ask again later",
            headers={"Retry-After": "5"},
        )
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Reading what was asked


def _only(uploads: Sequence[Upload]) -> Upload:
    if len(uploads) != 1:
        raise Problem("invalid-request", f"the request has {len(uploads)} pictures; send one")
    return uploads[0]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError as error:
        raise Problem(
            "invalid-request", f"the box {text[:80]!r} is not x0,y0,x1,y1: four numbers in pixels, with commas"
        ) from error
    return left, top, right, bottom


def _question(text: bytes, longest: int, most: int) -> SearchQuestion:
    try:
        question = SearchQuestion.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error.errors()) from error
    if len(question.sentence) > longest:
        raise Problem(
            "invalid-request",
            f"the sentence has {len(question.sentence):,} characters; at most {longest:,} are accepted",
        )
    if question.top is not None and not 1 <= question.top <= most:
        raise Problem("invalid-request", f"top is {question.top}; it must be from 1 to {most}")
    return question


def _need_index(service: Service) -> Catalogue:
    if service.catalogue is None:
        raise Problem("no-index", "this server has no index of pictures; start it with: showtell serve --index DIR")
    return service.catalogue


# Telling what was found


def _caption_json(said: Caption | Failure) -> dict[str, Any]:
    content = said.to_json()
    if isinstance(said, Failure):
        return content
    content["probability"] = _probability(said.logprob)
    for told, other in zip(content.get("alternatives", ()), said.alternatives, strict=True):
        told["probability"] = _probability(other.logprob)
    return content


def _probability(logprob: float) -> float:
    return float(f"{math.exp(min(0.0, logprob)):.4g}")


def _describe_models(service: Service) -> dict[str, Any]:
    manifest, catalogue, limits = service.manifest, service.catalogue, service.limits
    models = [(manifest, ["captions", "regions"])]
    if catalogue is not None:
        models.append((catalogue.aligner.manifest, ["search"]))
    return {
        "version": version("showtell"),
        "models": [
            {
                "name": one.name,
                "tasks": tasks,
                "encoder": one.encoder,
                "attends": one.attends,
                "search": one.search,
                "scores": one.scores,
            }
            for one, tasks in models
        ],
        "words": service.captioner.words.describe(service.captioner.restrictions),
        "indexed": None if catalogue is None else catalogue.pictures,
        "limits": {
            "bytes": limits.body,
            "picture_bytes": limits.pictures.max_bytes,
            "pixels": limits.pictures.max_pixels,
            "files": limits.files,
            "seconds": limits.seconds,
            "beam": limits.beam,
            "regions": limits.regions,
            "found": limits.found,
        },
    }
