"""What users import, and the arguments of it, changes on purpose only.

    python tests/test_public_api.py > tests/goldens/public_api.txt

writes the list anew; the commit that does so says why, and the changelog what users must do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import mlx_rcnn
from mlx_rcnn import convert, data, evaluation, layers, models, ops, training

GOLDEN = Path(__file__).with_name("goldens") / "public_api.txt"
MODULES = (mlx_rcnn, convert, data, evaluation, layers, models, ops, training)


def arguments(thing: object) -> str:
    """Names and defaults, without annotations, which say the same in other words at times."""
    try:
        parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    return str(inspect.Signature([p.replace(annotation=inspect._empty) for p in parameters]))


def public_api() -> Iterator[str]:
    """A line a public name, and one a public method of a class of this package."""
    for module in MODULES:
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}{arguments(thing) if callable(thing) else ''}"
            if inspect.isclass(thing) and module is mlx_rcnn:
                for method, code in inspect.getmembers(thing, inspect.isfunction):
                    if method[0] != "_" and code.__module__.startswith("mlx_rcnn."):
                        yield f"{module.__name__}.{name}.{method}{arguments(code)}"


def test_the_public_api_is_the_one_written_down() -> None:
    old, new = set(GOLDEN.read_text().splitlines()), set(public_api())
    gone, added = sorted(old - new), sorted(new - old)
    assert not gone and not added, f"gone: {gone}; new: {added}"


if __name__ == "__main__":
    print("\n".join(public_api()))
