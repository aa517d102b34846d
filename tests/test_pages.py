"""Every code block of the README and of docs/ runs, or says why not; commands parse."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_rcnn
import tiny
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.main import main
from mlx_rcnn.data import open_dataset
from mlx_rcnn.data.selective_search import load_opencv
from pages import PAGES, ROOT, SHELL, Block, arguments, blocks, commands, make_folder

ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = {block.page for block in ALL if block.kind == "python"}
NEEDS = {"selective search": load_opencv}
NOT_RUN = 3  # blocks that nothing can check here; more need a better reason than this number
IN_GITHUB = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pages") / "all"
    make_folder(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def there(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder, in which the test is."""
    folder = tmp_path / "here"
    shutil.copytree(laid_out, folder)
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder)


class MyBackbone(nn.Module):
    """Stands for a reader's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 128, 3, stride=16, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.relu(self.conv(x))


def given(page: str) -> dict[str, Any]:
    """What a page's blocks take for granted."""
    names: dict[str, Any] = {"mlx_rcnn": mlx_rcnn, "mx": mx, "nn": nn, "np": np}
    if page in ("docs/predicting.md", "docs/training.md", "docs/evaluating.md"):
        names["model"] = mlx_rcnn.load("my_model")
    if page == "docs/evaluating.md":
        names["dataset"] = open_dataset("VOCdevkit/VOC2007", split="test")
    if page == "docs/models.md":
        [batch] = tiny.batches(2)
        names |= {"MyBackbone": MyBackbone, "pixels": mx.zeros((1, 64, 64, 3))}
        names |= {"images": batch.images, "targets": batch.targets}
    if page == "docs/family.md":
        names |= inside()
    return names


def inside() -> dict[str, Any]:
    """What stands around the lines of docs/family.md in the package."""
    from mlx_rcnn import RCNN, FasterRCNN, ResNetConfig
    from mlx_rcnn.heads import MaskBranch
    from mlx_rcnn.heads.rcnn import classifier_of
    from mlx_rcnn.inputs.transform import load_images, preprocess
    from mlx_rcnn.models.proposing import _settled
    from mlx_rcnn.models.strides import Strides
    from mlx_rcnn.rpn.network import proposal_rule

    model = tiny.build()
    batch = preprocess(load_images("photo.jpg"), model.config)
    net = ResNetConfig(depth=18, width=8, norm="group", norm_groups=4, num_classes=3)
    crops = RCNN(net, 64, 3, crop_size=40)
    return {
        "self": Both(model, crops),
        "batch": batch,
        "rois": mx.array([[0.0, 4, 4, 40, 40], [0, 8, 8, 30, 60]]),
        "strides": model.strides(model.features(batch.pixels), batch),
        "stage": crops.stage([batch.pixels], Strides([], [])),
        "classifier_of": classifier_of,
        "MaskBranch": MaskBranch,
        "FasterRCNN": FasterRCNN,
        "_settled": _settled,
        "proposal_rule": proposal_rule,
    }


class Both:
    """A Faster R-CNN, and an R-CNN for what it has not: `self` is of either in docs/family.md."""

    def __init__(self, model: Any, crops: Any) -> None:
        self.model, self.backbone = model, crops.backbone
        self.config = crops.config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.mark.parametrize("page", sorted(PYTHON))
def test_python_runs(page: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["page"])
    names = {**given(page), "__name__": "page"}
    for block in (b for b in ALL if b.page == page and b.kind == "python"):
        code = "\n" * block.line + block.code
        if block.mark.startswith("of "):
            source = (ROOT / block.mark[3:]).read_text(encoding="utf-8")
            held = {line.strip() for line in source.splitlines()}
            assert {line.strip() for line in block.code.splitlines()} <= held, str(block)
        elif block.mark == "theirs":
            ast.parse(code)
        elif not block.mark.startswith("not run: ") and available(block.mark):
            exec(compile(code, str(ROOT / page), "exec"), names)


def available(mark: str) -> bool:
    """Whether what a block needs beside the package, if anything, is installed."""
    if not mark.startswith("needs "):
        return True
    try:
        NEEDS[mark.removeprefix("needs ")]()
    except ImportError:
        return False
    return True


def test_marks_are_known_and_few_blocks_are_not_run() -> None:
    known = ("not run: ", "needs ", "of ", "theirs", "run")
    assert [str(b) for b in ALL if b.mark and not b.mark.startswith(known)] == []
    assert [str(b) for b in ALL if b.mark == "theirs" and b.kind != "python"] == []
    assert len([b for b in ALL if b.mark.startswith("not run: ")]) <= NOT_RUN
    assert len(PYTHON) > 8 and sum(b.kind in SHELL for b in ALL) > 20


def shell(mark: str | None = None) -> Iterator[tuple[Block, list[str]]]:
    """Each command of the shell blocks."""
    for block in ALL:
        if block.kind in SHELL and (mark is None or block.mark == mark):
            try:
                yield from ((block, words) for words in commands(block))
            except ValueError:  # a quotation mark alone: a listing, or a language's own text
                assert "mlx_rcnn " not in block.code, str(block)


def test_commands_parse() -> None:
    parser, parsed = build_parser(), 0
    for block, words in shell():
        if (ours := arguments(words)) is not None:
            try:
                parser.parse_args(ours)
            except Exception as error:
                raise AssertionError(f"{block}: {' '.join(words)}: {error}") from error
            parsed += 1
    assert parsed > 30


def test_scripts_extras_and_targets_that_commands_name_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block, words in shell():
        if words[0] == "make" and "=" not in words[1]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{block}: {words}"
        if "pip" in words:
            for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
                for name in extra.split(","):
                    assert re.search(rf"^{name} = ", project, re.MULTILINE), f"{block}: {name}"
        for word in words:
            if re.match(r"(examples|benchmarks|docs|tests)/[\w/]+\.py$", word):
                text = (ROOT / word).read_text(encoding="utf-8")
                flags = [w for w in words if w.startswith("--") and words[0] == "python"]
                assert [f for f in flags if f not in text] == [], f"{block}: {words}"


@pytest.mark.parametrize("page", sorted({b.page for b in ALL if b.mark == "run"}))
def test_commands_of_the_first_pages_run(page: str, there: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLX_RCNN_CACHE", str(there / "cache"))
    for block, words in shell("run"):
        ours = arguments(words) if block.page == page else None
        if ours is not None:
            assert main(ours) == 0, f"{block}: {' '.join(words)}"


def test_links_lead_to_files() -> None:
    """As the repository shows them; `mkdocs build --strict` says it of the site."""
    wrong = []
    for page in PAGES:
        for target, _ in IN_GITHUB.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong
