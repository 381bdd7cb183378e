"""One shape for every refusal over HTTP: `{"code","msg"}`, a code for programs and a sentence."""

from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from gateway.access import RefusedError
from gateway.protocol import ClientError

_BAD_PARAMETER = 422
_STATUS = {"unknown_product": 404, "ambiguous_product": 409}
_CODES = {404: "not_found", 405: "bad_method"}
_SHOWN = 64


class ErrorView(BaseModel):
    """Why a request was not answered."""

    code: str = Field(description="For programs.", examples=["bad_parameter"])
    msg: str = Field(
        description="What is wrong and what to do, in one sentence.",
        examples=["'depth' is \"x\": Input should be a valid integer."],
    )


def refusal(refused: RefusedError) -> JSONResponse:
    """Return the answer to somebody who may not come in."""
    headers = {} if refused.retry_s is None else {"Retry-After": str(refused.retry_s)}
    if refused.status == 401:  # noqa: PLR2004  # the one status that demands this header
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(refused.status, refused.code, refused.msg, headers)


def answer_errors(app: FastAPI) -> None:
    """Have every error of this application answered in the one shape."""
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(ClientError, _asked_wrongly)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)  # noqa: S101  # as registered
    return refusal(error)


async def _asked_wrongly(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ClientError)  # noqa: S101  # as registered
    return _answer(_STATUS.get(error.code, 400), error.code, error.msg)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # as registered
    problems = error.errors()
    where, kind = problems[0]["loc"][:2], problems[0]["type"]
    # What may be one of several kinds of values has a finding for each.
    reasons = [problem["msg"] for problem in problems if problem["loc"][:2] == where]
    shown = str(problems[0]["input"])
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    msg = f"'{where[-1]}' is {shown!r}: {'; or: '.join(reasons)}."
    if kind == "missing":
        msg = f"'{where[-1]}' is missing: give it as a parameter of the address."
    return _answer(_BAD_PARAMETER, "bad_parameter", msg)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # as registered
    msg = f"{error.detail}: /docs lists what there is."
    return _answer(error.status_code, _CODES.get(error.status_code, "http"), msg, error.headers)


def _answer(
    status: int, code: str, msg: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(ErrorView(code=code, msg=msg).model_dump(), status, headers)
