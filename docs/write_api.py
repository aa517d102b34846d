"""Writes the reference's pages: python docs/write_api.py [--check].

A page a public module, each public name once, where most people import it from; the text of each
is its docstring, put in by mkdocstrings when the site is built.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType

import mlx_rcnn
from mlx_rcnn import convert, data, evaluation, layers, models, ops, training

FOLDER = Path(__file__).resolve().with_name("api")
MODULES = (mlx_rcnn, data, training, evaluation, models, ops, layers, convert)
KINDS = ("Functions", "Models", "Builders of models", "Classes", "Configurations", "Others")
# Said once, of the model that most people build; the others' differ by their arguments alone.
METHODS = ("__call__", "predict", "stream", "get_loss", "raw_outputs", "to_predict", "load_weights")


def address(module: ModuleType, name: str) -> str:
    """Where a name is defined, which is where a reader of sources finds it."""
    thing = getattr(module, name)
    inner = getattr(thing, "__qualname__", "")
    if inspect.isroutine(thing) or inspect.isclass(thing):
        return f"{thing.__module__}.{inner}"
    return f"{module.__name__}.{name}"


def kind(module: ModuleType, name: str) -> str:
    """The heading that a name stands under."""
    thing = getattr(module, name)
    if inspect.isclass(thing):
        if name.endswith("Config"):
            return "Configurations"
        return "Models" if issubclass(thing, models.Detector) else "Classes"
    if inspect.isroutine(thing):
        builds = thing.__module__.startswith("mlx_rcnn.models") and "_" in name
        return "Builders of models" if builds and "rcnn" in name else "Functions"
    return "Others"


def entry(module: ModuleType, name: str) -> Iterator[str]:
    """The lines of one name."""
    yield f"::: {address(module, name)}\n    options:"
    yield f"      heading: {module.__name__}.{name}\n      toc_label: {name}"
    if kind(module, name) == "Models":
        shown = METHODS if name == "FasterRCNN" else ("predict",)
        yield "      inherited_members: true\n      members:"
        yield "\n".join(f"        - {method}" for method in shown)
    yield ""
    yield from described(getattr(module, name))


def described(thing: object) -> Iterator[str]:
    """A table of the fields that say what they are themselves, as those of ``TrainConfig`` do."""
    if not is_dataclass(thing) or "help" not in fields(thing)[0].metadata:
        return
    yield "| field | default | what it is |\n|---|---|---|"
    for field in fields(thing):
        yield f"| `{field.name}` | `{field.default!r}` | {field.metadata['help']} |"
    yield ""


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    seen: dict[str, str] = {}
    found = {}
    for module in MODULES:
        short = module.__name__.removeprefix("mlx_rcnn.")
        names, repeated = [], []
        for name in sorted(module.__all__):
            if isinstance(getattr(module, name), ModuleType):
                continue
            first = seen.setdefault(address(module, name), f"{module.__name__}.{name}")
            own = first == f"{module.__name__}.{name}"
            (names if own else repeated).append(name)
        text = [f"# {module.__name__}\n", f"{(module.__doc__ or '').splitlines()[0]}\n"]
        if repeated:
            text.append(
                "Also here, and described under [`mlx_rcnn`](mlx_rcnn.md): "
                + ", ".join(f"`{name}`" for name in repeated)
                + ".\n"
            )
        for heading in KINDS:
            under = [name for name in names if kind(module, name) == heading]
            if under:
                text.append(f"## {heading}\n")
                text += [line for name in under for line in entry(module, name)]
        found[f"{short}.md"] = "\n".join(text)
    return found


if __name__ == "__main__":
    made = pages()
    if "--check" in sys.argv:
        there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
        sys.exit(None if there == made else "docs/api is old: python docs/write_api.py")
    FOLDER.mkdir(exist_ok=True)
    for old in set(FOLDER.glob("*.md")) - {FOLDER / name for name in made}:
        old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
