"""A request's body, read within limits, and the image in it.

Nothing here opens a path or a URL: an image is the bytes that were sent.
"""

from __future__ import annotations

import anyio
from PIL.Image import DecompressionBombError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from ..inputs.image_files import opened_bytes
from ..inputs.pixels import ImageError
from ..messages import one_line
from .limits import Limits, RequestError, Ticket, too_large
from .query import Upload
from .worker import FORMATS

_NOT_IMAGES = ("text/", "video/", "audio/", "font/")


def media_type(request: Request) -> str:
    """The type of a body, without parameters, in lower case; empty if it is not said."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_body(request: Request, ticket: Ticket) -> bytes:
    """A body of bounded size, in bounded time; RequestError if too large, too slow or empty."""
    limits = ticket.admission.limits
    # by what it announces, and below by what comes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise too_large(limits)
    chunks: list[bytes] = []
    with anyio.move_on_after(limits.body_seconds):
        async for chunk in request.stream():
            ticket.hold(len(chunk))
            chunks.append(chunk)
        if not ticket.held:
            raise RequestError(400, "the body is empty: expected an image")
        return b"".join(chunks)
    raise RequestError(408, f"the body was not there after {limits.body_seconds:g} s, the limit")


async def image_of(request: Request, body: bytes) -> Upload:
    """The image of a body: the body itself, or the one file of a form; RequestError for others."""
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await _form_file(request, body)
    if kind.startswith(_NOT_IMAGES):
        raise RequestError(415, f"Content-Type {kind}: expected an image, or a form with one file")
    return Upload(body, "")


async def _form_file(request: Request, body: bytes) -> Upload:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=8) as form:
            for value in form.values():
                if not isinstance(value, str):
                    return Upload(await value.read(), value.filename or "")
    # Starlette's words for a broken form, one for one without an end, and the parser's own.
    except (HTTPException, MultiPartException, ClientDisconnect, ValueError) as error:
        why = getattr(error, "detail", None) or one_line(error)
        raise RequestError(400, f"the form cannot be read: {why}") from error
    raise RequestError(400, "the form holds no file: expected one, as curl -F image=@photo.jpg")


def check_image(upload: Upload, limits: Limits) -> str:
    """Pillow's format of an image, by its header alone; RequestError if none, or too large."""
    try:
        with opened_bytes(upload.data, formats=FORMATS) as image:
            (width, height), kind = image.size, str(image.format)
    except ImageError as error:
        huge = isinstance(error.__cause__, DecompressionBombError)
        raise RequestError(413 if huge else 415, str(error)) from error
    if width * height > limits.max_pixels:
        raise RequestError(
            413,
            f"the image has {width} x {height} pixels, more than {limits.max_pixels / 1e6:g} "
            "million, the limit: make it smaller, or raise --max-pixels",
        )
    return kind
