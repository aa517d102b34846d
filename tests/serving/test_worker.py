"""The thread that computes: batches, order, those who leave, and the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from mlx_rcnn.serving.limits import Admission, Limits, RequestError
from mlx_rcnn.serving.worker import Job, Options, Worker
from serving_kit import TellingModel, png

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def worker() -> Any:
    """One whose first job holds it up until ``model.free`` is set."""
    model = TellingModel()
    worker = Worker(lambda: model, Limits(batch_size=3), "m")
    assert worker.start() is model
    yield worker
    model.free.set()
    worker.stop()


def job(grey: int, width: int = 40, height: int = 30, **options: Any) -> Job:
    wanted = Options(**options)
    return Job(png(width, height, grey), wanted, lambda found: found.image[0, 0, 0].item())


def test_what_waits_is_batched_in_order(worker: Worker) -> None:
    model = worker.model
    model.free.clear()
    first = worker.submit(job(1))
    assert model.begun.acquire(timeout=10)
    later = [worker.submit(job(grey)) for grey in (2, 3, 4, 5)]
    assert worker.unanswered == 5
    model.free.set()
    assert [future.result(10) for future in (first, *later)] == [1, 2, 3, 4, 5]
    assert [call[0] for call in model.calls] == [[1], [2, 3, 4], [5]]
    assert model.threads == {"mlx_rcnn worker"}


def test_only_equals_share_a_batch(worker: Worker) -> None:
    model = worker.model
    model.free.clear()
    worker.submit(job(1))
    assert model.begun.acquire(timeout=10)
    # 40 x 30 becomes 43 x 32, padded to 64 x 32, as 60 x 40 does; 30 x 40 lies across.
    kinds = [job(2), job(3, 30, 40), job(4, 60, 40), job(5), job(6, top_k=2), job(7)]
    later = [worker.submit(one) for one in kinds]
    model.free.set()
    assert [future.result(10) for future in later] == [2, 3, 4, 5, 6, 7]
    assert [call[0] for call in model.calls[1:]] == [[2, 4], [3], [5, 7], [6]]
    assert model.calls[-1][1:] == (None, 2)


def test_who_leaves_is_passed_over(worker: Worker) -> None:
    model = worker.model
    model.free.clear()
    worker.submit(job(1))
    assert model.begun.acquire(timeout=10)
    futures = [worker.submit(job(grey)) for grey in (2, 3, 4)]
    assert futures[1].cancel()
    model.free.set()
    assert (futures[0].result(10), futures[2].result(10)) == (2, 4)
    with pytest.raises(CancelledError):
        futures[1].result(0)
    assert model.calls[1][0] == [2, 4]


def test_one_that_fails_does_not_take_others_along(worker: Worker) -> None:
    model = worker.model
    model.free.clear()
    worker.submit(job(1))
    assert model.begun.acquire(timeout=10)
    futures = [worker.submit(job(grey)) for grey in (2, 13)]
    broken = worker.submit(Job(png()[:50], Options(), str))
    model.free.set()
    assert futures[0].result(10) == 2
    with pytest.raises(ValueError, match="thirteen"):
        futures[1].result(10)
    with pytest.raises(RequestError, match="cannot read"):
        broken.result(10)
    unwritable = Job(png(), Options(), lambda found: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.submit(unwritable).result(10)
    assert worker.submit(job(9)).result(10) == 9


def test_the_end_answers_what_is_queued() -> None:
    model = TellingModel()
    worker = Worker(lambda: model, Limits(batch_size=1), "m")
    worker.start()
    model.free.clear()
    futures = [worker.submit(job(grey)) for grey in (1, 2, 3)]
    assert model.begun.acquire(timeout=10)
    ending = threading.Thread(target=worker.stop)
    ending.start()
    time.sleep(0.05)
    with pytest.raises(RequestError, match="stopping"):
        worker.submit(job(4))
    model.free.set()
    ending.join(10)
    assert [future.result(0) for future in futures] == [1, 2, 3]


def test_a_model_that_does_not_load() -> None:
    def load() -> Any:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        Worker(load, Limits(), "m").start()


def test_admission_counts_requests_and_bytes() -> None:
    admission = Admission(Limits(max_bytes=100, queue=6))
    with admission.request(7) as a, admission.request(7) as b:
        a.hold(60)
        with pytest.raises(RequestError) as too_large:
            a.hold(41)
        assert too_large.value.status == 413 and admission.held == 60
        b.hold(100)
        with admission.request(1) as c, admission.request(1) as d, admission.request(9) as e:
            c.hold(100)
            d.hold(100)
            with pytest.raises(RequestError) as full:
                e.hold(41)  # 401 of all, of at most 400
            assert full.value.status == 503 and full.value.headers == {"Retry-After": "9"}
            with admission.request(1), pytest.raises(RequestError, match="6 requests"):
                admission.request(1).__enter__()
    assert (admission.requests, admission.held) == (0, 0)


CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import mlx_rcnn
from mlx_rcnn.serving.limits import Limits
from mlx_rcnn.serving.worker import Job, Options, Worker
from serving_kit import PHOTO, save_model

folder = save_model("faster_rcnn", sys.argv[2])
worker = Worker(lambda: mlx_rcnn.load(folder), Limits(), "m")
worker.start()
print(worker.submit(Job(PHOTO, Options(), lambda found: len(found.prediction))).result())
worker.stop()
"""


def test_a_process_whose_worker_has_computed_ends_well(folder: Path) -> None:
    # MLX's streams, not cleared, aborted it 7 times of 8.
    command = [sys.executable, "-c", CODE, str(TESTS)]
    for number in range(3):
        done = subprocess.run([*command, str(folder / str(number))], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and int(done.stdout) > 0
