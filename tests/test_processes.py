"""Forked processes compute, or say at once why not."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork is not safe elsewhere")

SCRIPT = """
import multiprocessing, sys
import mlx.core as mx
from mlx_rcnn.processes import about_to_compute, check_process

def compute():
    about_to_compute()
    total = (mx.ones((4, 4)) @ mx.ones((4, 4))).sum()
    mx.eval(total)
    return total

def work(pipe):
    try:
        check_process()
        pipe.send(f"{compute().item():g}")
    except RuntimeError as error:
        pipe.send(str(error))

BEFORE
read, send = multiprocessing.get_context("fork").Pipe(False)
child = multiprocessing.get_context("fork").Process(target=work, args=(send,))
child.start()
print(read.recv() if read.poll(30) else "hangs")
child.kill()
"""


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("", "64"),
        ("mx.zeros((3,))", "64"),
        ("compute()", "spawn"),
        ("mx.eval(mx.zeros((3,)) + 1)", "spawn"),
    ],
    ids=["nothing", "no evaluation", "a model", "MLX alone"],
)
def test_a_forked_child(before, says):
    script = textwrap.dedent(SCRIPT).replace("BEFORE", before)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr and says in done.stdout, done.stdout + done.stderr
