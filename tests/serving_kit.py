"""What tests of the server share: models on disk, a model that waits to be told, a live server."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mlx_rcnn
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.cli.serve.files import files_of
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.outputs.detections import Detections
from mlx_rcnn.serving.app import build_app
from mlx_rcnn.serving.limits import Limits
from mlx_rcnn.serving.server import listen, make_server
from mlx_rcnn.serving.worker import Worker
from small import PHOTOS, recipe_state, untrained

NAMES = ("__background__", "ant", "bee/fly", "çat", "a dog")
PHOTO = (PHOTOS / "stop.jpg").read_bytes()


def save_model(kind: str, folder: Path) -> Path:
    """A small model with names and the recipe's weights, as ``mlx_rcnn.save`` writes it."""
    model = untrained(kind, class_names=NAMES)
    assign(model, rename(recipe_state(model), RULES).weights, "the recipe")
    mlx_rcnn.save(model, folder)
    return folder


def png(width: int = 40, height: int = 30, value: int = 90) -> bytes:
    """A small picture of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (value,) * 3).save(file, "PNG")
    return file.getvalue()


class TellingModel:
    """Finds the top left half, with the first pixel's grey as its score; waits while told to."""

    def __init__(self) -> None:
        self.config = types.SimpleNamespace(
            min_size=32, max_size=64, resize_rule="torch", size_divisible=32, num_classes=5
        )
        self.class_names, self.num_classes, self.source = NAMES, 5, "somewhere"
        self.needs_masks = self.needs_keypoints = self.needs_proposals = False
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Semaphore(0)
        self.calls: list[tuple[list[int], float | None, int | None]] = []
        self.threads: set[str] = set()

    def predict(self, images: Any, *, score_thresh: Any = None, top_k: Any = None) -> Any:
        greys = [int(image[0, 0, 0]) for image in images]
        self.calls.append((greys, score_thresh, top_k))
        self.threads.add(threading.current_thread().name)
        self.begun.release()
        assert self.free.wait(20)
        if 13 in greys:
            raise ValueError("thirteen brings\nbad luck")
        found = []
        for image, grey in zip(images, greys, strict=True):
            height, width = image.shape[:2]
            arrays = {
                "boxes": np.array([[0, 0, width / 2, height / 2]], np.float32),
                "scores": np.array([grey / 255], np.float32),
                "labels": np.array([3], np.int32),
            }
            found.append(Detections(arrays, NAMES, (height, width)))
        return found


@contextmanager
def application(load: Any, limits: Limits | None = None, name: str = "m") -> Iterator[Any]:
    """An application with its worker, which ends with the block; its ``worker`` is beside it."""
    limits = limits or Limits()
    worker = Worker(load, limits, name)
    model = worker.start()
    app = build_app(worker, limits, files_of(model), ("box.local",))
    try:
        yield types.SimpleNamespace(app=app, worker=worker, model=model)
    finally:
        worker.stop()


@contextmanager
def live(load: Any, limits: Limits | None = None) -> Iterator[Any]:
    """The same behind a socket, its ``address`` beside it."""
    with application(load, limits) as running:
        listening = listen("127.0.0.1", 0)
        running.address = listening.getsockname()
        server = make_server(running.app, 10.0, lambda: "stopping")
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def talk(address: Any, *parts: bytes, timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are, and read the answer to its end: status, headers, body."""
    with socket.create_connection(address, timeout) as connection:
        for part in parts:
            connection.sendall(part)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """An answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {data!r}")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def post(body: bytes, *headers: str, path: str = "/predict") -> bytes:
    """A request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
