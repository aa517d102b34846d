"""The categories of a COCO file: their ids and names, as tools write them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ..config.categories import BACKGROUND
from .fields import Fields, Notes, shown, whole
from .sample import Defect


def read_categories(
    entries: Sequence[Fields],
    used: Collection[int | None],
    path: Path,
    notes: Notes,
    defects: list[Defect],
) -> dict[int, str]:
    """Names by rising id, at least one; ValueError for bad or repeated ids and for bad names."""
    found: dict[int, str] = {}
    parents = {entry.get("supercategory") for entry in entries if _is_text(entry, "supercategory")}
    for entry in entries:
        id_, name = whole(entry.get("id")), entry.get("name")
        if id_ is None or not isinstance(name, str):
            raise ValueError(
                f"{path}: category {shown(dict(entry))}: expected an integer id and a name"
            )
        if id_ in found:
            raise ValueError(f"{path}: category id {id_} comes up twice")
        if not isinstance(entry["id"], int):
            notes.add("category id is not a whole number of JSON", "read as one", f"category {id_}")
        # Roboflow's root, a category of no object that is the others' ``supercategory``
        if entry.get("supercategory") == "none" and name in parents and id_ not in used:
            problem = f"category {id_} ({name}) is the root of the others and has no objects"
            defects.append(Defect(str(path), problem, "category left out"))
            continue
        if not name.strip() or name == BACKGROUND:
            problem = f"category {id_} has the name {name!r}"
            name = f"category_{id_}"
            defects.append(Defect(str(path), problem, f"named {name}"))
        found[id_] = name
    if not found:
        raise ValueError(f"{path} has no categories")
    defects.extend(similar_names(list(found.values()), path))
    return dict(sorted(found.items()))


def similar_names(names: Sequence[str], path: Path) -> list[Defect]:
    """A defect for each pair of names that differs by case or blanks alone, and for ``N/A``."""
    defects, first = [], dict[str, str]()
    for name in names:
        other = first.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            problem = f"classes {other!r} and {name!r} differ by case or blanks alone"
            defects.append(Defect(str(path), problem, "two classes"))
        if name == "N/A":
            problem = "a class is named 'N/A', which stands for none in COCO's 91 classes"
            defects.append(Defect(str(path), problem, "counted if it has objects"))
    return defects


def _is_text(entry: Fields, key: str) -> bool:
    return isinstance(entry.get(key), str)
