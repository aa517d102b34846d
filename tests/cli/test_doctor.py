"""``mlx_rcnn doctor``: right here, and able to say that something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.cli.doctor import checks as doctor_checks
from mlx_rcnn.cli.doctor import command as doctor
from mlx_rcnn.cli.main import main


def test_all_is_well_here(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "found.json"
    assert main(["doctor", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert (
        err == "" and f"all {len(doctor_checks.CHECKS)} checks hold" in out and "FAILED" not in out
    )
    found = json.loads(file.read_text())
    assert found["machine"]["versions"].startswith("mlx-rcnn ")
    names = [check["name"] for check in found["checks"]]
    assert names == [check.name for check in doctor_checks.CHECKS]
    assert all(check["passed"] and check["error"] <= check["bound"] for check in found["checks"])


def test_a_wrong_sum_and_a_crash_are_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    right = doctor_checks.CHECKS[0]

    def crash() -> doctor_checks.Arrays:
        raise RuntimeError("no kernel\nfor this")

    wrong = right._replace(name="a wrong one", compute=lambda: [right.compute()[0] * 1.001])
    crashing = right._replace(name="a crash", compute=crash)
    monkeypatch.setattr(doctor, "CHECKS", (right, wrong, crashing))
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[-3].startswith("matrix products") and "FAILED" not in lines[-3]
    assert lines[-2].startswith("a wrong one") and lines[-2].endswith("FAILED")
    assert lines[-1].endswith("FAILED RuntimeError: no kernel for this")
    assert err.count("\n") == 1 and "2 of 3 failed: please report" in err


@pytest.mark.parametrize("check", doctor_checks.CHECKS, ids=lambda check: check.name)
def test_each_check_can_fail(check: doctor_checks.Check) -> None:
    """Its result, a little off, is beyond the bound, on a GPU as well."""
    got = check.compute()
    off = [
        v + 0.2 * np.abs(v).max() if v.dtype.kind == "f" else ~v if v.dtype == bool else v + 1
        for v in got
    ]
    assert doctor.difference(off, got) > max(check.bound, check.gpu_bound)
    assert doctor.difference([np.full(v.shape, np.nan) for v in got], got) == float("inf")


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: Any, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", doctor_checks.CHECKS[:1])
    (tmp_path / "file").touch()
    for place, code, words in (
        (tmp_path / "file/found.json", 2, "file is not a folder"),
        (tmp_path, 2, "is a folder: expected a file"),
        ("/dev/full", 1, "cannot write /dev/full: No space left on device"),
    ):
        assert main(["doctor", "--json", str(place)]) == code
        out, err = capsys.readouterr()
        assert words in err and err.count("\n") == 1 and bool(out) == (code == 1)


def test_a_gpu_is_held_against_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is put back, whatever happens."""
    seen: list[Any] = []
    monkeypatch.setattr(mx, "set_default_device", lambda device: seen.append(device))
    check = doctor_checks.CHECKS[0]
    doctor._on_cpu(check)
    assert seen == [mx.cpu, mx.default_device()]
