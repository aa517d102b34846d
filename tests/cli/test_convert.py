"""``mlx_rcnn convert``: there and back bit for bit, and one line for what cannot work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_rcnn
import recipe
from mlx_rcnn import FastRCNNPredictor
from mlx_rcnn.checkpoints.export import export_state, settings
from mlx_rcnn.checkpoints.load import from_checkpoint
from mlx_rcnn.cli.convert.command import BUILDERS, as_architecture
from mlx_rcnn.cli.convert.verify import verify
from mlx_rcnn.cli.main import main
from mlx_rcnn.config.categories import class_names_of
from mlx_rcnn.convert.checkpoint import Checkpoint, read_checkpoint
from mlx_rcnn.convert.files.torch_file import load_torch_file
from mlx_rcnn.convert.files.torch_writer import save_torch_file
from mlx_rcnn.convert.libraries.recognise import recognise
from mlx_rcnn.convert.origin import Origin
from mlx_rcnn.convert.rename import rename
from small import old_name, with_counts

State = dict[str, mx.array]
KINDS = ("faster_rcnn", "mask_rcnn")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def same_bits(got: State, expected: State) -> None:
    """Equal keys, dtypes, shapes and bits."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        kind = {2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[value.dtype.size]
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape)
        assert mx.array_equal(got[key].view(kind), value.view(kind))


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Runs what cannot work; the one line it says."""
    assert main(["convert", *words]) == code
    error = capsys.readouterr().err
    assert error.startswith("mlx_rcnn: error: ") and error.count("\n") == 1 and len(error) < 900
    return error


STYLES: dict[str, Callable[[State], State]] = {
    "frozen": lambda state: state,
    "batch": with_counts,
    "2019": lambda state: {old_name(key): value for key, value in state.items()},
    "float16": lambda state: {key: v.astype(mx.float16) for key, v in state.items()},
    "bfloat16": lambda state: {
        key: v.astype(mx.bfloat16) for key, v in with_counts(state).items() if v.dtype != mx.int64
    },
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_identity(
    here: Path, small_state: Callable[[str], State], capsys, kind: str, style: str
) -> None:
    state = STYLES[style](small_state(kind))
    save_torch_file({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, "s.pth")
    assert main(["convert", "s.pth", "model"]) == 0
    out = capsys.readouterr().out
    assert "recognised: s.pth: torchvision" in out and "norms" in out or "BatchNorm2d" in out
    assert sorted(os.listdir("model")) == ["README.md", "config.json", "model.safetensors"]
    assert main(["convert", "model", "back.pth", "--to", "torchvision"]) == 0
    same_bits(load_torch_file("back.pth"), state)
    assert list(load_torch_file("back.pth")) == list(state)
    assert main(["convert", "s.pth", "direct.pth", "--to", "torchvision"]) == 0
    same_bits(load_torch_file("direct.pth"), state)
    wrote = ["back.pth", "back.pth.json", "direct.pth", "direct.pth.json", "model", "s.pth"]
    assert sorted(os.listdir()) == wrote  # nothing left


def test_verify_says_what_it_compared(here: Path, small_state, capsys) -> None:
    save_torch_file(with_counts(small_state("faster_rcnn")), "s.pth")
    assert main(["convert", "s.pth", "model", "--verify"]) == 0
    assert main(["convert", "model", "back.pth", "--verify", "--to", "torchvision"]) == 0
    assert main(["convert", "s.pth", "half", "--verify", "--dtype", "float16"]) == 0
    out = capsys.readouterr().out
    assert "150 of 150 tensors are the source's, bit for bit" in out
    assert "150 of 150 tensors are the model's, bit for bit" in out
    assert "100 of 150 tensors" in out and "50 more were cast; the largest change is" in out
    assert out.count("detections, the same before writing and after reading") == 3
    assert mlx_rcnn.load("half").backbone.net.conv1.weight.dtype == mx.float16


def test_verify_finds_a_change(here: Path, small_state, capsys) -> None:
    save_torch_file(small_state("faster_rcnn"), "s.pth")
    source = read_checkpoint(Path("s.pth"))
    model = from_checkpoint(source).eval()
    changed = from_checkpoint(source)
    bias = changed.roi_heads.box_head.fc7.bias
    changed.roi_heads.box_head.fc7.bias = mx.where(mx.arange(bias.size) == 3, 5.0, bias)
    mlx_rcnn.save(changed, "model")
    assert not verify(Path("model"), model, source, "mlx")
    out = capsys.readouterr().out
    assert "129 of 130 tensors" in out and "changed: 'roi_heads.box_head.fc7.bias'" in out
    assert "OTHERS than before" in out
    state = dict(source.state)
    state.pop("roi_heads.box_head.fc7.bias")
    lacking = source._replace(state={**state, "new": mx.array(1)})
    mlx_rcnn.save(model, "model")
    assert not verify(Path("model"), model, lacking, "mlx")
    out = capsys.readouterr().out
    assert "missing: 'new'" in out and "not in the source: 'roi_heads.box_head.fc7.bias'" in out


def test_a_model_trained_here_with_a_new_head(here: Path, small_state) -> None:
    save_torch_file(with_counts(small_state("faster_rcnn")), "s.pth")
    model = mlx_rcnn.load("s.pth")
    model.roi_heads.box_predictor = FastRCNNPredictor(64, 3)
    mlx_rcnn.save(model, "tuned")
    assert main(["convert", "tuned", "t.pth", "--to", "torchvision"]) == 0
    state = load_torch_file("t.pth")
    assert state["roi_heads.box_predictor.cls_score.weight"].shape == (3, 64)
    assert state["backbone.body.bn1.num_batches_tracked"].item() == 7
    again = mlx_rcnn.load("t.pth")
    assert again.config.num_classes == 3 and again.backbone.config.norm == "batch"


def test_batch_norms_made_here_get_counters() -> None:
    model = mlx_rcnn.faster_rcnn_resnet_50_fpn(num_classes=3)  # with the classifier fc
    state = export_state(model, "torchvision")
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert len(counters) == 53 == len([key for key in state if key.endswith("running_var")])
    assert all(state[key].dtype == mx.int64 and state[key].shape == () for key in counters)
    assert not any("body.fc" in key for key in state)
    lines = settings(model, "torchvision")
    assert lines[0] == (
        "model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, "
        "weights_backbone=None, num_classes=3)"
    )
    assert lines[1:] == ["differs: the builder has no stride_rule='exact'"]


def test_what_to_set_in_torchvision() -> None:
    model = mlx_rcnn.maskrcnn_resnet50_fpn(num_classes=5, min_size=300, roi_aligned=True)
    call, eps, *differs = settings(model, "torchvision")
    assert "maskrcnn_resnet50_fpn(" in call and "num_classes=5, min_size=300)" in call
    assert "m.eps = 0" in eps and "differs: the builder has no roi_aligned=True" in differs


def test_names_of_classes(here: Path, small_state, capsys) -> None:
    save_torch_file(small_state("faster_rcnn"), "s.pth")
    Path("names.txt").write_text("red\nwhite\n\n plate let \nx\n")
    assert main(["convert", "s.pth", "model", "--classes", "names.txt", "--num-classes", "5"]) == 0
    model = mlx_rcnn.load("model")
    assert model.class_names == ("__background__", "red", "white", "plate let", "x")
    Path("five.json").write_text(json.dumps(["bg", "a", "b", "c", "d"]))
    assert class_names_of("five.json", 5) == ("bg", "a", "b", "c", "d")
    assert class_names_of("five.json", 6) == ("__background__", "bg", "a", "b", "c", "d")
    assert "--num-classes 4: s.pth has 5 classes" in refused(
        capsys, "s.pth", "m", "--num-classes", "4"
    )
    for text, what in (
        ("a\nb", "2 names, expected 4, or 5"),
        ("[1, 2]", "a list of names"),
        ('["a"', "Expecting"),
        ("", "0 names"),
    ):
        Path("wrong").write_text(text)
        assert what in refused(capsys, "s.pth", "m", "--classes", "wrong")
    assert "No such file" in refused(capsys, "s.pth", "m", "--classes", "absent")
    assert not Path("m").exists()
    with pytest.raises(OSError, match="is a folder"):
        class_names_of(here, 5)


def test_an_existing_destination(here: Path, small_state, capsys) -> None:
    save_torch_file(small_state("faster_rcnn"), "s.pth")
    os.mkdir("model")  # empty
    assert main(["convert", "s.pth", "model"]) == 0
    before = Path("model/model.safetensors").read_bytes()
    assert "model exists: give --overwrite" in refused(capsys, "s.pth", "model")
    Path("model/notes.txt").write_text("mine")
    assert main(["convert", "s.pth", "model", "--dtype", "float16", "--overwrite"]) == 0
    assert len(Path("model/model.safetensors").read_bytes()) < len(before)
    os.mkdir("photos")
    Path("photos/a.jpg").write_text("")
    assert "no model directory" in refused(capsys, "s.pth", "photos", "--overwrite")
    assert "no model directory" in refused(capsys, "s.pth", "s.pth", "--overwrite")
    Path("t.pth").write_text("old")
    to = ("--to", "torchvision")
    assert "t.pth exists" in refused(capsys, "s.pth", "t.pth", *to)
    assert main(["convert", "s.pth", "t.pth", *to, "--overwrite"]) == 0
    assert len(load_torch_file("t.pth")) == 130
    assert sorted(os.listdir()) == ["model", "photos", "s.pth", "t.pth", "t.pth.json"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("absent.pth", "m"), "no model 'absent.pth'"),
        (("bad.pth", "m"), "bad.pth: .*HTML"),
        (("s.pth", "m", "--to", "torchvision"), "ends in .pth or .pt"),
        (("s.pth", "m.pth", "--to", "torchvision", "--upload-repo", "a/b"), "goes with --to mlx"),
        (("s.pth", "m", "--upload-repo", "nobody"), "expected OWNER/NAME"),
        (("s.pth", "m", "--arch", "resnet"), "expected one of faster_rcnn_resnet_101_fpn"),
        (("s.pth", "m", "--arch", "fasterrcnn_resnet50_fpn"), "does not fit the model"),
        (("s.pth", "m", "--arch", "maskrcnn_resnet50_fpn"), "does not fit the model"),
        (("s.pth", "s.pth/m"), "is not a folder"),
        (("model", "m", "--from", "torchvision"), "SOURCE is a directory"),
        (("s.pth", "m", "--from", "caffe"), "invalid choice"),
        (("s.pth", "m", "--dtype", "float64"), "invalid choice"),
        (("s.pth", "m", "--num-classes", "0"), "a whole number of at least 1"),
        (("s.pth",), "DEST"),
    ],
)
def test_one_line_for_what_cannot_work(
    here: Path, small_state, capsys, words: tuple[str, ...], what: str
) -> None:
    save_torch_file(small_state("faster_rcnn"), "s.pth")
    Path("bad.pth").write_text("<html>Not found</html>")
    if words[0] == "model":
        mlx_rcnn.save(mlx_rcnn.load("s.pth"), "model")
    import re

    assert re.search(what, refused(capsys, *words))
    assert not Path("m").exists()


def test_a_full_disk_leaves_what_was(here: Path, small_state, capsys, monkeypatch) -> None:
    save_torch_file(small_state("faster_rcnn"), "s.pth")
    assert main(["convert", "s.pth", "model"]) == 0
    before = Path("model/config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_rcnn.cli.convert.command.model_card", full)
    words = ["s.pth", "model", "--overwrite", "--dtype", "float16"]
    assert "No space left" in refused(capsys, *words, code=1)
    assert Path("model/config.json").read_bytes() == before
    assert sorted(os.listdir()) == ["model", "s.pth"]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_architecture_can_be_forced(name: str) -> None:
    """On its own state dict, unevaluated: nothing is computed."""
    built = BUILDERS[name](num_classes=91)
    state = export_state(built, "torchvision")
    found = recognise(state)
    renamed = rename(state, found.rules, (7, 7))
    origin = Origin("torchvision", "f.pth", {}, {})
    checkpoint = Checkpoint(Path("f.pth"), state, found, renamed.weights, origin)
    model = from_checkpoint(as_architecture(checkpoint, name))
    assert type(model) is type(built) and name in model.source
    for field in (
        "min_size",
        "max_size",
        "anchor_sizes",
        "rpn_score_thresh",
        "box_score_thresh",
        "rpn_post_nms_top_n_test",
        "num_classes",
    ):
        assert getattr(model.config, field) == getattr(built.config, field)
    assert model.class_names is None


def test_published_file_is_the_identity(here: Path) -> None:
    """The whole of torchvision's model, in the names the file is published under."""
    state = {
        old_name(k): mx.array(v) for k, v in recipe.state_dict("maskrcnn_resnet50_fpn").items()
    }
    save_torch_file(state, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    assert main(["convert", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "model"]) == 0
    assert main(["convert", "model", "back.pth", "--to", "torchvision"]) == 0
    same_bits(load_torch_file("back.pth"), state)
    card = Path("model/README.md").read_text()
    assert "base_model: torchvision/maskrcnn_resnet50_fpn.COCO_V1" in card
    assert "box AP 37.9, mask AP 34.6" in card and "license: bsd-3-clause" in card
    assert "mlx_rcnn convert maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth model" in card
