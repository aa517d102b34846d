"""``mlx_rcnn convert``: weights from another library to a model directory, and back."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from mlx_rcnn.convert.checkpoint import Checkpoint, read_checkpoint
from mlx_rcnn.convert.files.torch_writer import save_pickle_file, save_torch_file
from mlx_rcnn.convert.libraries.recognise import LIBRARIES
from mlx_rcnn.convert.settings import NOTE, settings_file, settings_text

from ... import models
from ...backbones import backbone_type
from ...checkpoints.directory import CONFIG_FILE, WEIGHTS_FILE
from ...checkpoints.export import export_state, settings
from ...checkpoints.find import find
from ...checkpoints.hub import looks_like_repository, upload
from ...checkpoints.load import MODELS, from_checkpoint, load
from ...checkpoints.model_card import model_card
from ...checkpoints.save import description, save
from ...checkpoints.weights import cast_weights
from ...config.detector import to_json
from ...config.quantization import COPY, FIELD, Quantization
from ...files import flush, replacing
from ...layers import weights_to_come
from ...messages import nearest, one_line
from ...models import Detector, quantize
from ...models.quantized import quantization_of
from ..errors import CommandError
from ..flags.common import model_settings
from ..flags.convert import SUFFIXES
from ..preflight import check_writable
from .verify import verify

BUILDERS = {
    name: getattr(models, name)
    for name in models.__all__
    if re.match(r"(faster|mask|keypoint)_?rcnn_(?!vgg)", name)
}
"""What keys and shapes may not tell apart."""
CARD = "README.md"
AUTHOR = "mlx_rcnn"


def run(args: argparse.Namespace) -> int:
    """Convert ``args.source`` to ``args.dest``; 1 if ``--verify`` found a difference."""
    dest = Path(args.dest)
    given = model_settings(args)
    _check(args, dest)
    model, checkpoint = _model(args, given)
    print(f"recognised: {model.source or 'a model of mlx_rcnn'}")
    if args.num_classes not in (None, model.config.num_classes):
        raise CommandError(
            f"--num-classes {args.num_classes}: {args.source} has {model.config.num_classes} "
            "classes, the background included"
        )
    _store_in(args, model)
    model.eval()
    try:
        _write(args, model, dest)
    except OSError as error:  # a full disk
        raise CommandError(one_line(error), 1) from error
    except (ValueError, TypeError) as error:
        raise CommandError(one_line(error)) from error
    print(f"wrote {dest}")
    for line in settings(model, args.to):
        print(line)
    if args.to != "mlx" and (how := quantization_of(model)):
        print(f"its box head was restored from {how.bits} bits: {args.to} has no such layers")
    if args.verify and not verify(dest, model, checkpoint, args.to):
        return 1
    if args.upload_repo:
        try:
            print(f"uploaded to {upload(dest, args.upload_repo)}")
        except (OSError, ValueError, ImportError) as error:
            raise CommandError(one_line(error), 1) from error
    return 0


def _store_in(args: argparse.Namespace, model: Detector) -> None:
    """Cast and quantise the weights as the flags say."""
    if args.dtype:
        cast_weights(model, args.dtype)
    if args.quantize:
        with _in_flags():
            quantize(model, bits=args.q_bits or 8, group_size=args.q_group_size or 64)


def _check(args: argparse.Namespace, dest: Path) -> None:
    """Refuse what cannot work before anything is read or downloaded."""
    _check_bits(args)
    if args.to == "mlx":
        ours = dest.is_dir() and (
            any((dest / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))
            or not any(dest.iterdir())
        )
        if dest.exists() and not ours:
            raise CommandError(f"{dest} is no model directory: it is not replaced")
    else:
        if dest.suffix not in SUFFIXES[args.to]:
            raise CommandError(
                f"{dest}: expected a file name that ends in {' or '.join(SUFFIXES[args.to])} for "
                f"--to {args.to}"
            )
        if args.upload_repo:
            raise CommandError("--upload-repo goes with --to mlx")
        if args.to not in LIBRARIES:
            raise CommandError(
                f"--to {args.to}: expected mlx or one of {', '.join(LIBRARIES)}"
                f"{nearest(args.to, ('mlx', *LIBRARIES))}"
            )
        if dest.is_dir():
            raise CommandError(f"{dest} is a folder: expected the name of a file")
    if dest.exists() and not args.overwrite and not (dest.is_dir() and not any(dest.iterdir())):
        raise CommandError(f"{dest} exists: give --overwrite to replace it")
    if args.upload_repo and not looks_like_repository(args.upload_repo):
        raise CommandError(f"--upload-repo {args.upload_repo}: expected OWNER/NAME")
    if args.arch is not None and args.arch not in BUILDERS:
        raise CommandError(
            f"--arch {args.arch}: expected one of {', '.join(sorted(BUILDERS))}"
            f"{nearest(args.arch, BUILDERS)}"
        )
    check_writable(dest.absolute().parent)


def _check_bits(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in ("q_bits", "q_group_size")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given if not args.quantize else ():
        raise CommandError(f"--{name.replace('_', '-')} goes with --quantize")
    if args.quantize and args.to != "mlx":
        raise CommandError(f"--quantize goes with --to mlx: {args.to} has no layers of a few bits")
    with _in_flags():
        Quantization(**{name.removeprefix("q_"): value for name, value in given.items()})


@contextmanager
def _in_flags() -> Iterator[None]:
    """Errors of a quantisation name the flags."""
    try:
        yield
    except ValueError as error:
        text = one_line(error).replace("group_size=", "--q-group-size ")
        raise CommandError(text.replace("bits=", "--q-bits ")) from error


def _model(
    args: argparse.Namespace, given: Mapping[str, object]
) -> tuple[Detector, Checkpoint | None]:
    """The model of a source and, if it is another library's, the checkpoint."""
    try:
        path = find(args.source)
        if path.is_dir():
            if args.library != "auto" or args.arch:
                raise CommandError("--from and --arch go with a checkpoint, SOURCE is a directory")
            read: Callable[..., Detector] = load  # each value was read in its field's type
            return read(path, **given), None
        if args.library != "auto" and args.library not in LIBRARIES:
            raise CommandError(
                f"--from {args.library}: expected one of {', '.join(LIBRARIES)}"
                f"{nearest(args.library, LIBRARIES)}"
            )
        settings = {k: v for k, v in given.items() if k not in ("style", "state")}
        checkpoint = read_checkpoint(path, args.library, args.style, args.state, settings)
        if args.arch:
            checkpoint = as_architecture(checkpoint, args.arch)
        fill: Callable[..., Detector] = from_checkpoint
        return fill(checkpoint, **settings), checkpoint
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise CommandError(one_line(error)) from error


def as_architecture(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint as a model of builder ``name``, which keys and shapes cannot always tell."""
    found = checkpoint.found
    with weights_to_come():
        built = BUILDERS[name](num_classes=found.detector["num_classes"])
    kind = next(kind for kind, cls in MODELS.items() if type(built) is cls)
    # its classes and the norms of its backbone are kept
    norms = {k: v for k, v in found.backbone.items() if k.startswith("norm")}
    body = {"type": backbone_type(built.backbone), **asdict(built.backbone.config), **norms}
    own = to_json(built.config) | {"class_names": found.detector.get("class_names")}
    del own["backbone"]
    note = f"{name}, as --arch says; by keys and shapes: {found.note}"
    forced = found._replace(model=kind, backbone=body | {"num_classes": 0}, detector=own, note=note)
    return checkpoint._replace(found=forced)


def _write(args: argparse.Namespace, model: Detector, dest: Path) -> None:
    """Write all of it under other names, then rename: what counts in one step, copies after it."""
    if args.to == "mlx":
        card = model_card(model, _command(args), args.upload_repo)
        fresh = not dest.exists()
        dest.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(dest / CARD) as part:
                part.write_text(card, encoding="utf-8")
                flush(part)
                save(model, dest)
        except BaseException:
            if fresh and not any(dest.iterdir()):
                dest.rmdir()
            raise
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    tensors = export_state(model, args.to)
    text = _settings(model, tensors)
    with replacing(settings_file(dest)) as beside:
        beside.write_text(text, encoding="utf-8")
        flush(beside)
        with replacing(dest) as part:
            _write_checkpoint(args.to, tensors, part, text)


def _write_checkpoint(library: str, tensors: dict[str, mx.array], part: Path, text: str) -> None:
    """The tensors in the form in which a library keeps them, and the settings in the same file."""
    if library == "torchvision":
        save_torch_file(tensors, part, {NOTE: text})
        return
    name = "model" if library == "detectron2" else "state_dict"
    author = {"__author__": AUTHOR} if library == "detectron2" else {}
    if part.suffix == ".pkl":
        save_pickle_file({name: tensors, NOTE: text} | author, part)
    else:
        save_torch_file({name: tensors} | author, part, {NOTE: text})


def _settings(model: Detector, tensors: dict[str, mx.array]) -> str:
    """What the tensors cannot say; the classifier of the backbone is not among them."""
    kind = next(kind for kind, cls in MODELS.items() if type(model) is cls)
    own = description(model, kind)
    backbone = own.pop("backbone") or {}
    for name in ("model_type", "format_version", "source", "origin", FIELD, COPY):
        own.pop(name, None)
    return settings_text(kind, backbone | {"num_classes": 0}, own, tensors)


def _command(args: argparse.Namespace) -> str:
    """The command that makes the result again."""
    source = Path(args.source).name if Path(args.source).exists() else args.source
    words = ["mlx_rcnn convert", source, Path(args.dest).name]
    words += ["--quantize"] if args.quantize else []
    for flag, value in (
        ("--from", None if args.library == "auto" else args.library),
        ("--arch", args.arch),
        ("--num-classes", args.num_classes),
        ("--classes", args.class_names and Path(args.class_names).name),
        ("--dtype", args.dtype),
        ("--q-bits", args.q_bits),
        ("--q-group-size", args.q_group_size),
        ("--style", args.style),
        ("--state", args.state),
        *(("--set", f"{name}={value}") for name, value in args.settings or ()),
    ):
        words += [] if value is None else [flag, shlex.quote(str(value))]
    return " ".join(words)
