"""examples/quick_start.ipynb runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quick_start.ipynb"


def cells(kind: str) -> list[dict]:
    return [c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def test_it_is_kept_without_outputs() -> None:
    assert [c["id"] for c in cells("code") if c["outputs"] or c["execution_count"]] == []


def test_it_runs() -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]' brings nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="pip install '.[docs]' brings ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": NOTEBOOK.parent}}
    client = nbclient.NotebookClient(notebook, timeout=300, resources=where)
    done = client.execute()
    ran = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    shown = [kind for out in ran[0].outputs for kind in out.get("data", {})]
    assert "image/png" in shown  # a result is a picture in a notebook
