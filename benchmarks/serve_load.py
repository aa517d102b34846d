"""A server under load: 64 clients and 10,000 requests, among them bad bodies and clients that die.

    python benchmarks/serve_load.py [--model DIR] [--requests 10000] [--clients 64] [--rude 0.02]

starts ``mlx_rcnn serve`` as a process of its own, on loopback, and counts: every answer must be
that of the photo sent, no request may be lost, and the server's memory must stay where it is once
it has seen a twentieth of them. Without --model, a small network with random weights answers.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import queue
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

import mlx_rcnn

RUDE = ("no image", "truncated", "a gigabyte announced", "killed")
SIZES = ((96, 64), (64, 96), (120, 80), (64, 64))


def small_model(folder: Path) -> Path:
    """ResNet-18 of width 8, with random weights."""
    mx.random.seed(0)
    backbone = mlx_rcnn.ResNetFPNConfig(depth=18, width=8, out_channels=8, num_classes=0)
    sizes = {"min_size": 64, "max_size": 96, "hidden_dim": 16, "use_fpn": True}
    kept = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0}
    names = ("__background__", "a", "b", "c")
    model = mlx_rcnn.FasterRCNN(backbone, 8, 4, class_names=names, **sizes, **kept)
    mlx_rcnn.save(model, folder)
    return folder


def photos() -> list[bytes]:
    """Small JPEGs of noise, in sizes that do and do not share a batch."""
    made = []
    for seed, (width, height) in enumerate(SIZES * 2):
        noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((width, height)).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


class Load:
    """Clients, and what became of their requests."""

    def __init__(self, port: int, process: int, args: argparse.Namespace) -> None:
        self.port, self.process, self.args = port, process, args
        self.photos = photos()
        self.expected = [
            self.ask(http.client.HTTPConnection("127.0.0.1", port), p)[1] for p in self.photos
        ]
        self.todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.lock = threading.Lock()

    def ask(self, connection: http.client.HTTPConnection, body: bytes) -> tuple[int, list, str]:
        connection.request("POST", "/predict", body)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        again = answer.headers.get("Retry-After", "")
        return answer.status, content.get("detections", content.get("error")), again

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def client(self, seed: int) -> None:
        draw = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while True:
            try:
                number = self.todo.get_nowait()
            except queue.Empty:
                connection.close()
                return
            if draw.random() < self.args.rude:
                self.be_rude(draw.choice(RUDE))
                continue
            which = number % len(self.photos)
            began = time.perf_counter()
            self.polite(connection, which)
            with self.lock:
                self.seconds.append(time.perf_counter() - began)

    def polite(self, connection: http.client.HTTPConnection, which: int) -> None:
        while True:
            try:
                status, found, again = self.ask(connection, self.photos[which])
            except (OSError, http.client.HTTPException) as error:
                self.count(f"lost: {type(error).__name__}")
                connection.close()
                return
            if status != 503:
                break
            self.count("told to come back")
            time.sleep(int(again))
        right = status == 200 and same(found, self.expected[which])
        self.count("answered right" if right else f"wrong: {status}")

    def be_rude(self, how: str) -> None:
        body, length = b"hello", None
        if how == "truncated":
            body = self.photos[0][:-400]
        elif how == "a gigabyte announced":
            length = 1 << 30
        elif how == "killed":
            body = self.photos[0]
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length or len(body)}"
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            if how == "killed":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + bytes(7))
                self.count("killed")
                return
            status = connection.recv(100).split()[1].decode()
        wanted = {"no image": "415", "truncated": "422", "a gigabyte announced": "413"}[how]
        busy = status == "503"
        self.count("rude, busy" if busy else "refused right" if status == wanted else f"? {status}")

    def run(self, count: int) -> float:
        for number in range(count):
            self.todo.put(number)
        clients = [
            threading.Thread(target=self.client, args=(i,)) for i in range(self.args.clients)
        ]
        began = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return time.perf_counter() - began

    def rss(self) -> float:
        """MB that the server's process has."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process)], capture_output=True, text=True
        )
        return int(shown.stdout) / 1024


def same(found: list, wanted: list) -> bool:
    """Equal up to the rounding of a batch."""
    if [row["label"] for row in found] != [row["label"] for row in wanted]:
        return False
    boxes = [np.array([row["box"] for row in rows]) for rows in (found, wanted)]
    return not len(boxes[0]) or bool(np.abs(boxes[0] - boxes[1]).max() < 0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rude", type=float, default=0.02, help="share of bad bodies and deaths")
    parser.add_argument("--queue", default="64")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or small_model(Path(scratch) / "model")
        command = [sys.executable, "-m", "mlx_rcnn", "serve", "--model", str(model), "--port", "0"]
        command += ["--queue", args.queue]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            load = Load(int(line.split(" (")[0].rsplit(":", 1)[1]), server.pid, args)
            warm = args.requests // 20
            seconds = load.run(warm)
            before = load.rss()
            marks = []
            for _ in range(4):
                seconds += load.run((args.requests - warm) // 4)
                marks.append(load.rss())
            server.terminate()
            last = server.communicate(timeout=120)[0].strip()
        finally:
            server.kill()
    times = sorted(load.seconds)
    print(
        f"{args.requests} requests of {args.clients} clients in {seconds:.0f} s, "
        f"{args.requests / seconds:.0f} a second; "
        f"median {statistics.median(times):.2f} s, 99 % {times[int(len(times) * 0.99)]:.2f} s, "
        f"longest {times[-1]:.2f} s"
    )
    print("; ".join(f"{what}: {n}" for what, n in sorted(load.counts.items())))
    print(f"memory: {before:.0f} MB after {warm}, then {', '.join(f'{m:.0f}' for m in marks)} MB")
    print(f"the server: {last}, exit code {server.returncode}")
    bad = [what for what in load.counts if what.startswith(("lost", "wrong", "?"))]
    return 1 if bad or server.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
