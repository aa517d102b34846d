"""A step whose losses are not finite: which images it was, and where the state before it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..data import TrainBatch
from .step import StepResult

NONFINITE = "nonfinite"


def not_finite(
    step: int, batches: Sequence[TrainBatch], result: StepResult, folder: Path, saved: Path | None
) -> FloatingPointError:
    """The error that stops the run, naming the images of the step that failed."""
    suspects = [batches[i] for i in result.suspects] or batches
    names = [name for batch in suspects for name in batch.names]
    values = {**result.losses, "norm of the gradient": result.norm}
    odd = ", ".join(f"{k} {v}" for k, v in values.items() if not abs(v) < float("inf"))
    where = ""
    # The checkpoint before the step gets ``batch.json``; ``None`` on a machine that writes none.
    if saved is not None:
        ids = [str(v) for batch in suspects for v in batch.image_ids]
        report = {"step": step, "images": names, "image_ids": ids, "values": repr(values)}
        (saved / "batch.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        where = f"; the state before it is in {folder / NONFINITE}"
    return FloatingPointError(
        f"step {step}: not finite: {odd}; images: {', '.join(names)}{where}. "
        "A lower lr, a longer warmup or a smaller clip may help"
    )
