"""Where built kernels lie, and the two dialects run by g++."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import gpu_shim
from mlx_rcnn.kernels import launch, trust
from mlx_rcnn.kernels.dialects import CUDA, METAL, Dialect


@pytest.fixture(scope="session", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base: Path = tmp_path_factory.getbasetemp()
    gpu_shim.BUILT = base.parent / f"{base.parent.name}-shim" if _many(base) else base / "shim"
    yield


def _many(base: Path) -> bool:
    """Whether other processes run tests of this session: they share what is built."""
    return base.name.startswith("popen-")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> gpu_shim.Fake:
    """Kernels run by g++ instead of a GPU; none has been tried yet."""
    if gpu_shim.COMPILER is None:
        pytest.skip("no g++ to compile kernels with")
    stand_in = gpu_shim.Fake()
    monkeypatch.setattr(launch, "build", stand_in)
    monkeypatch.setattr(trust, "_verdicts", {})
    return stand_in


@pytest.fixture(params=[METAL, CUDA], ids=lambda d: d.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param
