"""``mlx_rcnn export``: a model as a function file of MLX, for an app."""

from __future__ import annotations

import argparse
from pathlib import Path

import mlx.core as mx

from ..checkpoints.export_function import Agreement, check_target, export_function
from ..checkpoints.exported_function import MLX_VERSION, beside, by
from ..messages import one_line
from .errors import CommandError, load_model
from .flags.common import model_settings
from .preflight import check_writable, set_device


def run(args: argparse.Namespace) -> int:
    """Export ``args.model`` to ``args.dest``."""
    dest = Path(args.dest)
    try:
        check_target(dest, args.size)
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    check_writable(dest.parent)
    set_device(args.device)
    model = load_model(args.model, args.dtype, model_settings(args))
    kept = {name: getattr(args, name) for name in ("score_thresh", "nms_thresh", "top_k")}
    try:
        agreements = export_function(model, dest, args.size, **kept)
    except OSError as error:  # a full disk
        raise CommandError(one_line(error), 1) from error
    except (ValueError, TypeError) as error:
        raise CommandError(one_line(error)) from error
    for agreement in agreements:
        print(_line(agreement))
    gpu = mx.default_device().type == mx.DeviceType.gpu
    print(f"wrote {dest} ({dest.stat().st_size / 1e6:.1f} MB) and {beside(dest)}")
    print(f"it needs MLX {MLX_VERSION}, and runs on {'the GPU' if gpu else 'a CPU'}")
    if not gpu:
        print("for a Mac's GPU export it on a Mac, without --device cpu")
    return 0


def _line(found: Agreement) -> str:
    return (
        f"{by(found.size)}: {found.same} of {found.found} detections of a test picture as predict "
        f"gives them, within {found.boxes:.2g} px and {found.scores:.2g} of score"
    )
