"""A live server and clients that misbehave: slow, endless, gone, too many; and signals."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_rcnn.cli.main import main
from mlx_rcnn.serving import server
from mlx_rcnn.serving.limits import Limits
from serving_kit import TellingModel, live, png, post, read_answer, talk

TESTS = Path(__file__).resolve().parents[1]
LIMITS = Limits(max_bytes=1 << 20, queue=3, batch_size=1, seconds=20.0, body_seconds=0.4)


@pytest.fixture
def running() -> Any:
    with live(TellingModel, LIMITS) as running:
        yield running
        running.model.free.set()


def error(answer: tuple[int, dict[str, str], bytes]) -> str:
    text = json.loads(answer[2])["error"]
    assert isinstance(text, str)
    return text


def answers(running: Any) -> bool:
    """Whether the server still predicts."""
    return talk(running.address, post(png()))[0] == 200


def test_a_gigabyte_announced_is_refused_before_it_comes(running: Any) -> None:
    began = time.monotonic()
    answer = talk(running.address, post(b"\xff\xd8", "Content-Length: 1073741824"))
    assert answer[0] == 413 and "larger than 1 MB" in error(answer)
    assert answer[1]["connection"] == "close" and time.monotonic() - began < 5
    asked = talk(running.address, post(b"", "Content-Length: 1073741824", "Expect: 100-continue"))
    assert asked[0] == 413  # and not 100, so that nothing is sent
    assert answers(running)


def test_chunks_without_end_are_cut_off(running: Any) -> None:
    piece = b"40000\r\n" + bytes(0x40000) + b"\r\n"
    head = post(b"", "Transfer-Encoding: chunked")
    answer = talk(running.address, head, *[piece] * 5)
    assert answer[0] == 413 and answers(running)


def test_a_body_that_trickles_is_given_up(running: Any) -> None:
    with socket.create_connection(running.address, 10) as connection:
        connection.sendall(post(b"\xff\xd8", "Content-Length: 1000"))
        answer = read_answer(connection)
    assert answer[0] == 408 and "0.4 s" in error(answer)
    assert answers(running)


def test_a_head_that_never_ends_is_given_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.3)
    with live(TellingModel, LIMITS) as running:
        for begun in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
            with socket.create_connection(running.address, 10) as connection:
                connection.sendall(begun)
                assert connection.recv(100) == b""
        with socket.create_connection(running.address, 10) as connection:
            for _ in range(2):  # a connection that is used goes on, and then may not dawdle either
                connection.sendall(post(png()))
                assert read_answer(connection)[0] == 200
            connection.sendall(b"POST /pre")
            assert connection.recv(100) == b""


def test_no_http(running: Any) -> None:
    answer = talk(running.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert answer[0] == 400 and answers(running)


def test_a_full_queue_says_when_to_come_back(running: Any) -> None:
    running.model.free.clear()
    waiting = [socket.create_connection(running.address, 10) for _ in range(3)]
    for connection in waiting:
        connection.sendall(post(png()))
    until(running, requests=3)
    answer = talk(running.address, post(png()))
    assert answer[0] == 503 and "3 requests are waiting" in error(answer)
    assert 1 <= int(answer[1]["retry-after"]) <= 60
    running.model.free.set()
    assert [read_answer(connection)[0] for connection in waiting] == [200] * 3
    for connection in waiting:
        connection.close()
    assert answers(running)


def until(running: Any, **wanted: int) -> None:
    """Wait for the counts of ``/health``."""
    for _ in range(200):
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        state = json.loads(talk(running.address, head)[2])
        if all(state[name] == value for name, value in wanted.items()):
            return
        time.sleep(0.02)
    raise AssertionError(f"{state}, not {wanted}")


def test_a_killed_client_is_dropped_from_the_queue(running: Any, caplog: Any) -> None:
    model = running.model
    model.free.clear()
    first = socket.create_connection(running.address, 10)
    first.sendall(post(png(value=1)))
    assert model.begun.acquire(timeout=10)
    killed = socket.create_connection(running.address, 10)
    killed.sendall(post(png(value=2)))
    until(running, requests=2)
    # As when its process is killed: a reset, and no goodbye.
    killed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    killed.close()
    until(running, requests=1)
    third = socket.create_connection(running.address, 10)
    third.sendall(post(png(value=3)))
    until(running, requests=2)
    model.free.set()
    assert [read_answer(c)[0] for c in (first, third)] == [200, 200]
    assert [call[0] for call in model.calls] == [[1], [3]]
    until(running, requests=0)
    gc.collect()
    assert caplog.text == ""  # such as futures whose errors nobody has looked at


def test_a_client_that_leaves_amid_its_body(running: Any) -> None:
    for _ in range(5):
        with socket.create_connection(running.address, 10) as connection:
            connection.sendall(post(b"\xff\xd8", "Content-Length: 1000"))
    until(running, requests=0)
    assert answers(running)


def test_an_answer_that_takes_too_long() -> None:
    with live(TellingModel, Limits(seconds=0.3)) as running:
        running.model.free.clear()
        answer = talk(running.address, post(png()))
        assert answer[0] == 503 and "no answer after 0.3 s" in error(answer)
        running.model.free.set()
        until(running, requests=0)
        assert answers(running)


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import mlx_rcnn.checkpoints.load
from serving_kit import TellingModel

class Slow(TellingModel):
    def predict(self, images, **options):
        time.sleep(0.2)
        return super().predict(images, **options)

mlx_rcnn.checkpoints.load.load = lambda source, **options: Slow()
from mlx_rcnn.cli import main
sys.exit(main(["serve", "--model", "slow", "--port", "0", "--batch-size", "1", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(number: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(TESTS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving slow at http://127.0.0.1:")
            address = "127.0.0.1", int(line.split(" (")[0].rsplit(":", 1)[1])
            idle = socket.create_connection(address, 10)  # who says nothing holds nothing up
            found: list[int] = []
            clients = [
                threading.Thread(target=lambda: found.append(talk(address, post(png()))[0]))
                for _ in range(5)
            ]
            for client in clients:
                client.start()
            head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
            while json.loads(talk(address, head)[2])["requests"] < 4:
                time.sleep(0.01)
            os.kill(process.pid, number)
            for client in clients:
                client.join(20)
            out, err = process.communicate(timeout=20)
            idle.close()
        finally:
            process.kill()
    assert process.returncode == 0 and found == [200] * 5
    assert out == "5 images predicted\n"
    assert err.startswith("mlx_rcnn: stopping; ") and err.count("\n") == 1


def test_a_second_signal_does_not_wait() -> None:
    slow = SCRIPT.replace("0.2", "0.7")
    command = [sys.executable, "-c", slow, str(TESTS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split(" (")[0].rsplit(":", 1)[1]
            with contextlib.ExitStack() as stack:
                for _ in range(20):  # 14 seconds of work
                    place = ("127.0.0.1", int(port))
                    client = stack.enter_context(socket.create_connection(place, 10))
                    client.sendall(post(png()))
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=8)
        finally:
            process.kill()
    assert process.returncode == 130 and err.count("\n") == 1


def test_a_port_in_use(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # It is said before the model, which does not exist, is looked for.
        assert main(["serve", "--model", "no/such/model", "--port", port]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in shown.err
    assert "--port" in shown.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--port", "70000"], 2, "expected a whole number from 0 to 65535"),
        (["--host", "no.such.host.invalid", "--port", "0"], 1, "no such name or address"),
        (["--host", "192.0.2.1", "--port", "0"], 1, "cannot listen on 192.0.2.1"),
        (["--queue", "0"], 2, "at least 1"),
        (["--port", "0"], 2, "no/such/model"),
    ],
)
def test_what_cannot_be_served(words: list[str], code: int, said: str, capsys: Any) -> None:
    assert main(["serve", "--model", "no/such/model.pth", *words]) == code
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_without_the_extra(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", "x"]) == 2
    shown = capsys.readouterr().err
    assert 'pip install "mlx-rcnn[serve]"' in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_other_hosts_are_warned_of(host: str, warned: bool, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", lambda source, **_: TellingModel())
    seen = []
    monkeypatch.setattr(server, "serve", lambda app, *rest: seen.append(app) or True)
    assert main(["serve", "--model", "a/b/run/best", "--host", host, "--port", "0"]) == 0
    shown = capsys.readouterr()
    assert ("it has no password" in shown.err) == warned and len(seen) == 1
    assert shown.out.startswith("serving a/b/run/best at http://")


def test_a_model_that_needs_proposals(monkeypatch: Any, capsys: Any) -> None:
    def load(source: str, **_: Any) -> TellingModel:
        model = TellingModel()
        model.needs_proposals = True
        return model

    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", load)
    assert main(["serve", "--model", "x", "--port", "0"]) == 2
    assert "expected a model that proposes them itself" in capsys.readouterr().err
