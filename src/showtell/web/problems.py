"""Whatever goes wrong -> `application/problem+json` (RFC 9457), whose `detail` is one sentence.

`type` is `urn:problem-type:showtell:NAME` for the kinds below, and `about:blank` for what HTTP itself names (404, 405),
with HTTP's own title then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from showtell.errors import BackendError, BundleError, ImageError, ShowtellError
from showtell.web.batching import Overloaded

_LOG = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "key-needed": (401, "An API key is needed"),
    "foreign-origin": (403, "Pages of other sites may not use this service"),
    "not-found": (404, "There is no such picture"),
    "no-index": (404, "There is no index to search"),
    "slow-upload": (408, "The upload took too long"),
    "too-large": (413, "The request is too large"),
    "unsupported-media": (415, "The content type is not accepted"),
    "unknown-host": (421, "The host name is not one of this service"),
    "picture-not-accepted": (422, "The picture cannot be read"),
    "invalid-request": (422, "A value is not accepted"),
    "internal-error": (500, "Something went wrong inside"),
    "model-cannot": (501, "The model does not do this"),
    "overloaded": (503, "The service is busy"),
    "not-in-time": (503, "The answer was not ready in time"),
    "not-ready": (503, "The service is not ready"),
}


class ProblemDetails(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = Field(description="Identifies the kind of problem.")
    title: str = Field(description="The kind of problem in words.")
    status: int
    detail: str = Field(description="What is wrong, where, what is accepted, and what to do, in one sentence.")


class Problem(Exception):
    """An answer other than the one that was hoped for.

    Args:
        kind: One of those above.
        more: Further members of the answer.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers, self.more = kind, detail, dict(headers or {}), dict(more or {})

    def response(self) -> JSONResponse:
        status, title = _KINDS[self.kind]
        content = {
            "type": f"urn:problem-type:showtell:{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            **self.more,
        }
        return JSONResponse(content, status, self.headers, MEDIA_TYPE)


def problem_of(error: ShowtellError) -> Problem:
    """The answer to an error that has its own sentence."""
    if isinstance(error, Overloaded):
        return Problem("overloaded", str(error), headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, ImageError):
        return Problem("picture-not-accepted", str(error))
    if isinstance(error, BundleError):
        return Problem("model-cannot", str(error))
    if isinstance(error, BackendError):
        return Problem("not-ready", str(error))
    return Problem("invalid-request", str(error))


def install_problems(app: FastAPI) -> None:
    """Nothing; from here on every error of the application is a problem."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(ShowtellError)
    async def _known(request: Request, error: ShowtellError) -> JSONResponse:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        content = {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": _say(request, error),
        }
        return JSONResponse(content, error.status_code, dict(error.headers or {}), MEDIA_TYPE)

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem("internal-error", "this is a mistake of the service, which its log describes").response()


def invalid(errors: Sequence[Any]) -> Problem:
    """The problem of values that pydantic refused, in its form of errors."""
    told = [
        {"where": ".".join(str(part) for part in one["loc"]) or "body", "message": str(one["msg"])} for one in errors
    ]
    first, others = told[0], len(told) - 1
    detail = f"{first['where']} is not accepted: {first['message']}" + (f" ({others} more)" if others else "")
    return Problem("invalid-request", detail, more={"errors": told})


def _say(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {request.url.path[:200]}; what there is, /openapi.json lists"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method[:20]} is not accepted at {request.url.path[:200]}; use {allowed}"
    return str(error.detail)
