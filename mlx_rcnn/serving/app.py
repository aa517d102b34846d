"""The routes: what each answers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..messages import one_line
from ..outputs.coco import mask_option
from . import label_studio
from .answers import describe, detections_json
from .bodies import check_image, image_of, media_type, read_body
from .guard import Guard
from .limits import Admission, Limits, RequestError, Ticket, busy
from .page import read_page
from .query import JSON, PICTURE, File, Files, Query, Upload, Wish, read_query
from .schema import openapi
from .worker import Answer, Job, Options, Worker

_GONE = 499  # nginx's: the client has left; nobody reads it


class Server:
    """The handlers, and what they share."""

    def __init__(self, worker: Worker, limits: Limits, files: Files) -> None:
        self.worker, self.limits, self.files = worker, limits, files
        self.admission = Admission(limits)
        self.formats = (JSON, *files.kinds)
        self.page, self.page_policy = read_page()

    async def index(self, request: Request) -> Response:
        """The page."""
        headers = {"Content-Security-Policy": self.page_policy}
        return Response(self.page, media_type="text/html; charset=utf-8", headers=headers)

    async def health(self, request: Request) -> Response:
        """Whether the server is well, and how much waits."""
        worker, up = self.worker, self.worker.alive
        state = {"status": "UP" if up else "DOWN", "model": worker.name}
        state["model_class"] = type(worker.model).__name__
        counts = {"requests": self.admission.requests, "answered": worker.answered}
        return JSONResponse({**state, **counts}, 200 if up else 503)

    async def model(self, request: Request) -> Response:
        """What is served."""
        about = describe(
            self.worker.model, self.worker.name, self.limits, self.formats, self.files.shown
        )
        return JSONResponse(about)

    async def schema(self, request: Request) -> Response:
        """OpenAPI 3.1 of all this."""
        return JSONResponse(openapi(self.limits, self.formats))

    async def predict(self, request: Request) -> Response:
        """What is in an image: JSON or a file; or Label Studio's tasks, which are JSON."""
        with self.admission.request(self.worker.retry_after()) as ticket:
            if media_type(request) == "application/json":
                return JSONResponse(await self._predict_tasks(request, ticket))
            query = read_query(request.query_params, self.formats)
            upload = await image_of(request, await read_body(request, ticket))
            upload = Upload(upload.data, query.name or upload.name)
            kind = check_image(upload, self.limits)
            job = self._job(query, upload, kind)
            [answer] = await self._answers(request, [job])
        if isinstance(answer, File):
            headers = {"Content-Disposition": _attachment(answer.name)}
            return Response(answer.data, media_type=answer.media_type, headers=headers)
        return Response(answer, media_type="application/json")

    def _job(self, query: Query, upload: Upload, kind: str) -> Job[bytes | File]:
        model = self.worker.model
        if query.kind == JSON:
            masks = mask_option(model).get("masks")
            options = Options(query.threshold, query.top_k, masks)
            return Job(
                upload.data,
                options,
                partial(detections_json, name=upload.name, model=self.worker.name),
            )
        masks = "full" if query.kind == PICTURE and mask_option(model) else None
        # The threshold cuts at the end, as `predict --save --confidence` does.
        options = Options(None, query.top_k, masks or mask_option(model).get("masks"))
        least = self.files.shown if query.threshold is None else query.threshold
        wish = Wish(query.kind, upload, kind, least)
        return Job(upload.data, options, lambda found: self.files.make(found, wish))

    async def _predict_tasks(self, request: Request, ticket: Ticket) -> dict[str, object]:
        content = label_studio.read_request(await read_body(request, ticket))
        tasks = content.get("tasks")
        if not isinstance(tasks, list):
            raise RequestError(400, "JSON without tasks: expected Label Studio's, or an image")
        by_image = defaultdict(list)
        controls = label_studio.read_controls(content.get("label_config"), self.files.shown)
        for control in controls:
            by_image[control.value].append(control)
        options = Options(masks=mask_option(self.worker.model).get("masks"))
        jobs = []
        for task in tasks:
            for key, several in by_image.items():
                upload = Upload(label_studio.task_image(task, key), "")
                check_image(upload, self.limits)
                finish = partial(
                    label_studio.prediction, controls=several, version=self.worker.name
                )
                jobs.append(Job(upload.data, options, finish))
        found = await self._answers(request, jobs)
        count = len(by_image)
        results = [_joined(found[i : i + count]) for i in range(0, len(found), count)]
        return {"results": results, "model_version": self.worker.name}

    async def _answers(self, request: Request, jobs: list[Job[Answer]]) -> list[Answer]:
        """The answers of jobs, unless time runs out or the client leaves: then they are dropped."""
        waiting = [self.worker.submit(job) for job in jobs]
        answers = asyncio.ensure_future(_all(waiting))
        gone = asyncio.ensure_future(_left(request))
        limit = self.limits.seconds
        try:
            first = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait({answers, gone}, timeout=limit, return_when=first)
            if answers in done:
                return list(answers.result())
            if gone in done:
                raise ClientDisconnect
            raise busy(f"no answer after {limit:g} s", self.worker.retry_after())
        except (RequestError, ClientDisconnect):
            raise
        except Exception as error:  # the model's
            print(f"mlx_rcnn: error: {one_line(error)}", file=sys.stderr, flush=True)
            raise RequestError(500, "the model failed; the server's terminal says why") from error
        finally:
            gone.cancel()
            answers.cancel()
            for future in waiting:  # the worker passes them over
                future.cancel()

    async def setup(self, request: Request) -> Response:
        """Label Studio's: which version of the model answers."""
        with self.admission.request(self.worker.retry_after()) as ticket:
            content = label_studio.read_request(await read_body(request, ticket))
        if content.get("schema"):
            label_studio.read_controls(content["schema"], self.files.shown)
        return JSONResponse({"model_version": self.worker.name})

    async def webhook(self, request: Request) -> Response:
        """Label Studio's: annotations changed, or training is asked for; nothing is done here."""
        with self.admission.request(self.worker.retry_after()) as ticket:
            content = label_studio.read_request(await read_body(request, ticket))
        action = str(content.get("action"))[:100]
        status = "nothing done: this server predicts, and does not train"
        return JSONResponse({"status": status, "action": action})

    async def versions(self, request: Request) -> Response:
        """Label Studio's: the versions of the model, one."""
        return JSONResponse({"versions": [self.worker.name]})


def build_app(worker: Worker, limits: Limits, files: Files, names: tuple[str, ...]) -> Starlette:
    """The application over a worker that has loaded its model; ``names`` are our hosts."""
    server = Server(worker, limits, files)
    routes = [
        Route("/", server.index),
        Route("/health", server.health),
        Route("/model", server.model),
        Route("/schema", server.schema),
        Route("/predict", server.predict, methods=["POST"]),
        Route("/setup", server.setup, methods=["POST"]),
        Route("/webhook", server.webhook, methods=["POST"]),
        Route("/versions", server.versions),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, names=names)],
        exception_handlers={
            RequestError: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _left_alone,
            Exception: _failed,
        },
    )


def _joined(several: list[label_studio.Prediction]) -> label_studio.Prediction:
    """The predictions of a task's images as one."""
    return {**several[0], "result": [region for one in several for region in one["result"]]}


async def _all(futures: Sequence[Future[Answer]]) -> list[Answer]:
    return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _attachment(name: str) -> str:
    """A file's name for old clients, in ASCII, and as it is (RFC 6266)."""
    plain = re.sub(r'[^\x20-\x7e]|["\\]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    # A body that was not read to its end cannot be followed by another request.
    headers = {"Connection": "close", **error.headers}
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    message = {404: f"no page {path!r}: see /schema", 405: f"{request.method} {path}: not allowed"}
    text = message.get(error.status_code, error.detail)
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _left_alone(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its terminal says why"}, 500)
