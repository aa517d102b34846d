"""The package as a whole: import cost, layering, docstrings, host reads, what the wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Bottom up. A unit is a module of mlx_rcnn or a whole subpackage; it imports units of lines above
# its own line only, never one beside it. Inside a subpackage imports may not form a cycle.
LAYERS = (
    (
        "messages",
        "files",
        "memory",
        "structures",
        "moved",
        "processes",
        "peers",
        "progress",
        "tables",
        "kernels",
    ),
    ("config", "ops"),
    ("layers", "inputs"),
    ("backbones", "outputs", "data"),
    ("rpn", "heads", "convert", "evaluation"),
    ("models",),
    ("checkpoints",),
    ("training", "serving"),
    ("benchmark",),
    ("cli",),
    ("__main__", "__init__"),
)
FONTS = ("DejaVuSans-subset.ttf", "LICENSE.txt")
RANKS = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}

# Left to right: must not reach, not even through another unit.
NEVER_REACHES = (("data", "models"), ("evaluation", "models"), ("convert", "models"))

# Never imported anywhere: only scripts that make goldens and benchmarks need these.
FOREIGN = {"detectron2", "mmdet", "mmcv", "mmengine", "timm"}

# One module alone imports these, where they are used: what they compute is an extra.
ONE_MODULE = {
    "av": "mlx_rcnn.inputs.video",
    "cv2": "mlx_rcnn.data.selective_search",
    "shtab": "mlx_rcnn.cli.completion",
    "tensorboardX": "mlx_rcnn.training.log_files",
    "tifffile": "mlx_rcnn.inputs.tiff",
    "torch": "mlx_rcnn.benchmark.theirs",
    "torchvision": "mlx_rcnn.benchmark.theirs",
    "tqdm": "mlx_rcnn.progress",  # so that --quiet reaches every bar
}

# Optional or heavy: `import mlx_rcnn` must not pull these in.
NOT_AT_IMPORT = {
    *FOREIGN,
    *ONE_MODULE,
    "faster_coco_eval",
    "huggingface_hub",
    "matplotlib",
    "pandas",
    "pycocotools",
    "scipy",
    "starlette",
    "uvicorn",
    "PIL.ImageDraw",
    "PIL.ImageFont",
}

# Where values leave the device, or never were on it: (file, function or None for the whole file).
# Everywhere else `.item()`, `.tolist()`, `np.array(` and `np.asarray(` mean a hidden
# synchronisation.
HOST_BOUNDARY: tuple[tuple[str, str | None], ...] = (
    ("ops/nms.py", "nms"),  # these return as many indices as boxes survive
    ("ops/nms.py", "batched_nms"),
    ("ops/nms.py", "_settled"),
    ("ops/nms.py", "_greedy"),
    ("ops/nms_greedy.py", None),  # NumPy, for those two on a CPU
    ("ops/nms.py", "settle"),  # whether suppression has settled
    ("ops/roi_align.py", "_plain"),  # the adaptive grid alone: sampling_ratio <= 0
    ("ops/roi_align.py", "_dense"),  # likewise: one RoI at a time
    ("kernels/trust.py", None),  # once a kernel: is it right on this machine?
    ("ops/roi_pool.py", "multiscale_roi_pool"),  # how many pixels the largest bin covers
    ("ops/resize.py", None),  # Pillow's and OpenCV's rules are integer arithmetic in NumPy
    ("ops/keypoints.py", None),  # a RoI's heatmaps are resized to its own pixels
    ("ops/masks.py", None),  # pasting has the size of the image given
    ("ops/rle.py", None),  # strings of bytes
    ("rpn/anchors.py", "cell_anchors"),  # numbers of the configuration, never on the device
    ("inputs/pixels.py", None),  # files, PIL and NumPy come in
    ("inputs/transform.py", None),
    ("inputs/tiff.py", None),  # files, and arrays of NumPy's kind
    ("inputs/tiff_plane.py", None),
    ("inputs/windows.py", None),
    ("inputs/targets.py", None),  # NumPy comes in
    ("inputs/proposals.py", None),
    ("models/results.py", "not_finite"),  # an error's text
    ("models/tiled.py", None),  # results of NumPy are merged
    ("models/proposal_network.py", None),  # results leave the device, and labels come in
    ("models/traced.py", None),  # sizes and numbers of the configuration, before it is traced
    ("models/augmented.py", None),  # what is found in several views is merged by image
    ("models/boxing.py", "detect"),  # results leave the device here, once a batch
    ("models/results.py", "to_results"),
    ("heads/branch.py", "add_results"),  # and masks, once they are known
    ("heads/mask.py", "add_raw"),
    ("heads/keypoint.py", "add_results"),  # and heatmaps
    ("heads/rois.py", "rows_with_positives"),  # how many RoIs a branch gets
    ("heads/rois.py", "valid_rois"),
    ("models/strides.py", "image_strides"),  # NumPy sizes of images
    ("models/rcnn.py", "box_outputs"),  # which proposals there are came from the host
    ("models/crop_units.py", None),  # features leave the device
    ("convert", None),  # checkpoints are NumPy until they are complete
    ("checkpoints/save.py", None),
    ("checkpoints/exported_function.py", "__call__"),
    ("checkpoints/weights.py", "add_to_digest"),  # what is written to disk
    ("outputs/skeletons.py", None),
    ("outputs/draw.py", None),
    ("outputs/coco.py", None),
    ("outputs/reduced.py", None),
    ("outputs/sahi.py", None),
    ("outputs/detections.py", None),  # NumPy throughout
    ("data", None),  # NumPy throughout
    ("evaluation", None),
    ("training/step.py", "_take"),  # what the step's one evaluation has computed
    ("training/machines.py", "number_of_first"),  # once before training, and an epoch
    ("peers.py", "_agree"),
    ("training/machines.py", "least"),  # once before training
    ("training/batch_size.py", "_largest"),  # sizes of files
    ("training/metrics.py", None),  # files
    ("training/summary_page.py", None),  # numbers of the record
    ("training/hinge.py", None),  # SVMs are NumPy, over features that have left the device
    ("training/svms.py", None),
    ("training/ridge.py", None),
    ("training/crop_samples.py", None),
    ("benchmark", None),  # files and measured seconds
    ("serving/answers.py", None),  # results that have left the device become JSON
    ("serving/label_studio.py", None),
    ("serving/brush.py", None),
    ("cli", None),
)


def modules() -> dict[str, Path]:
    """Every module by its import name, with convert/ where it installs."""
    found = {}
    for top, name in ((ROOT / "mlx_rcnn", "mlx_rcnn"), (ROOT / "convert", "mlx_rcnn.convert")):
        for path in sorted(top.rglob("*.py")):
            parts = [name, *path.relative_to(top).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Absolute names of what a module imports at any depth of its code, with line numbers.

    `from package import name` counts as package.name when that is a module, else as the package.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (inner if inner in known else source), node.lineno


def unit(name: str) -> str:
    """The first part of a name below mlx_rcnn; the package itself is its __init__."""
    return name.split(".")[1] if "." in name else "__init__"


def import_edges() -> list[tuple[str, str, str]]:
    """(importing module, imported module of this package, "file:line") for every import."""
    known = modules()
    return [
        (name, target, f"{path.relative_to(ROOT)}:{line}")
        for name, path in known.items()
        for target, line in imports(name, path, known)
        if target.split(".")[0] == "mlx_rcnn"
    ]


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """All nodes that one or more edges lead to from `start`."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def fresh(code: str, cwd: Path) -> str:
    """What `code` prints in a new interpreter that sees the installed package only."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


def test_import_adds_less_than_half_a_second(tmp_path: Path) -> None:
    code = (
        "import time, numpy, mlx.nn, PIL.Image; start = time.process_time(); import mlx_rcnn; "
        "print(time.process_time() - start)"
    )
    # The processor's time, the best of five: a busy machine makes an import slower, never faster.
    assert min(float(fresh(code, tmp_path)) for _ in range(5)) < 0.5


def test_import_pulls_in_nothing_optional(tmp_path: Path) -> None:
    loaded = set(fresh("import mlx_rcnn, sys; print(*sys.modules)", tmp_path).split())
    assert "mlx_rcnn" in loaded
    assert loaded & NOT_AT_IMPORT == set()


def test_convert_imports_as_a_part_of_the_package(tmp_path: Path) -> None:
    for cwd in (tmp_path, ROOT):
        assert fresh("import mlx_rcnn.convert as c; print(c.__name__)", cwd).split() == [
            "mlx_rcnn.convert"
        ]


def test_every_module_has_its_layer() -> None:
    unknown = {unit(name) for name in modules()} - set(RANKS)
    assert not unknown, f"add these to LAYERS: {sorted(unknown)}"


def test_imports_point_down() -> None:
    wrong = [
        f"{where}: {name} imports {target}"
        for name, target, where in import_edges()
        if unit(name) != unit(target)
        and {unit(name), unit(target)} <= set(RANKS)
        and RANKS[unit(target)] >= RANKS[unit(name)]
    ]
    assert not wrong, "upward or sideways imports:\n" + "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for name, target, _ in import_edges():
        graph.setdefault(name, set()).add(target)
    cyclic = [name for name in graph if name in reachable(name, graph)]
    assert not cyclic, f"import cycle through {cyclic}"


def test_what_never_reaches_the_models() -> None:
    graph: dict[str, set[str]] = {}
    for name, target, _ in import_edges():
        graph.setdefault(unit(name), set()).add(unit(target))
    assert [(a, b) for a, b in NEVER_REACHES if b in reachable(a, graph)] == []


def test_no_foreign_frameworks() -> None:
    known = modules()
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for name, path in known.items()
        for target, line in imports(name, path, known)
        if target.split(".")[0] in FOREIGN or ONE_MODULE.get(target.split(".")[0], name) != name
    ]
    assert not wrong, "imported:\n" + "\n".join(wrong)


def test_commands_alone_print() -> None:
    """``--quiet`` and ``--json -`` know of what commands print, and of ``progress``."""
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for name, path in modules().items()
        if unit(name) not in ("cli", "progress") and name != "mlx_rcnn.benchmark.worker"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
        if "mlx_rcnn: error: " not in ast.unparse(node)  # a request's, of a server that goes on
    ]
    assert not printing, "printed beside the commands:\n" + "\n".join(printing)


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions, classes and methods; overloads and property setters repeat another."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            marks = {ast.unparse(mark).rsplit(".", 1)[-1] for mark in node.decorator_list}
            if not marks & {"overload", "setter"}:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def test_public_names_have_docstrings() -> None:
    missing = []
    for path in modules().values():
        tree = ast.parse(path.read_text())
        missing += [] if ast.get_docstring(tree) else [f"{path.relative_to(ROOT)}:1 (module)"]
        missing += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in public_definitions(tree.body)
            if not ast.get_docstring(node)
        ]
    assert not missing, "no docstring:\n" + "\n".join(missing)


def host_reads(node: ast.AST, function: str | None = None) -> Iterator[tuple[str | None, str, int]]:
    """(outermost function or method, what, line) of every call that reads a value on the host."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            of, name = child.func.value, child.func.attr
            from_numpy = isinstance(of, ast.Name) and of.id in ("np", "numpy")
            if name in (("array", "asarray") if from_numpy else ("item", "tolist")):
                yield function, ast.unparse(child), child.lineno
        inside = isinstance(child, ast.FunctionDef) and function is None
        yield from host_reads(child, child.name if inside else function)


def test_values_are_read_only_at_the_host_boundary() -> None:
    hidden = []
    for name, path in modules().items():
        inside = "/".join(name.split(".")[1:]) + ".py"
        for function, what, line in host_reads(ast.parse(path.read_text())):
            if not any(
                (inside == place or inside.startswith(f"{place}/") or inside == f"{place}.py")
                and allowed in (None, function)
                for place, allowed in HOST_BOUNDARY
            ):
                hidden.append(f"{path.relative_to(ROOT)}:{line} in {function}: {what}")
    assert not hidden, "host reads outside HOST_BOUNDARY:\n" + "\n".join(hidden)


def test_wheel_holds_every_module_and_the_type_marker(tmp_path: Path) -> None:
    # A copy, so that neither build output of an earlier version gets in nor any is left behind.
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "mlx_rcnn", "convert"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    expected = {
        "/".join(name.split(".")) + ("/__init__.py" if path.name == "__init__.py" else ".py")
        for name, path in modules().items()
    } | {
        "mlx_rcnn/py.typed",
        "mlx_rcnn/serving/page.html",
        *(f"mlx_rcnn/outputs/fonts/{name}" for name in FONTS),
    }
    # A module missing here: its package is missing from [tool.setuptools] packages.
    held = {name for name in names if ".dist-info/" not in name}
    assert held == expected, f"missing {expected - held}, not ours {held - expected}"
    assert "mlx_rcnn = mlx_rcnn.cli:main" in scripts
    assert any(name.endswith("licenses/LICENSE") for name in names)
