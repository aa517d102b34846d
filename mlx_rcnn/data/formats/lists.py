"""Splits of data whose format has none: lists ``<split>.txt`` at the top, or folders named so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ..listing import Files
from ..sample import Defect
from ..splits import SplitError, find_splits, folder_splits, list_keys


def found_splits(
    files: Files, known: Sequence[PurePosixPath]
) -> dict[str, list[tuple[PurePosixPath, list[str]]]]:
    """By split, pairs of the list ``<split>.txt`` (or the folder itself) and the names in it."""
    # annotations or images, relative, that may be listed
    stems = {key for path in known for key in (path.stem, path.name, path.as_posix())}
    lists = find_splits(files.root, files.text, stems)
    if lists:
        return lists
    folders = folder_splits(known)
    return {
        split: [(PurePosixPath(split), [path.as_posix() for path in paths])]
        for split, paths in folders.items()
    }


def choose(
    files: Files, known: Sequence[PurePosixPath], split: str | None, defects: list[Defect]
) -> tuple[list[PurePosixPath], tuple[str, ...]]:
    """What of ``known`` belongs to a split, in its list's order, and the names of all splits."""
    splits = found_splits(files, known)
    if split is None:
        return list(known), tuple(splits)
    if split not in splits:
        have = ", ".join(splits) or "none"
        raise SplitError(f"{files.root} has no split {split!r}: it has {have}")
    by_key: dict[str, list[PurePosixPath]] = {}
    for path in known:
        for key in {path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem}:
            by_key.setdefault(key, []).append(path)
    chosen: dict[PurePosixPath, None] = {}
    for where, names in splits[split]:
        for name in names:
            found = _named(name, by_key)
            if len(found) == 1 and found[0] not in chosen:
                chosen[found[0]] = None
                continue
            problem = f"{name}: {len(found) or 'no'} such annotation{'s' * (len(found) > 1)}"
            if len(found) == 1:
                problem = f"{name} comes up twice"
            # lines of a list that name nothing
            defects.append(Defect(str(files.root / where), problem, "image dropped"))
    if not chosen:
        where, names = splits[split][0]
        raise ValueError(f"{files.root / where}: none of its {len(names)} lines is known here")
    return list(chosen), tuple(splits)


def _named(name: str, by_key: Mapping[str, list[PurePosixPath]]) -> list[PurePosixPath]:
    """What a line means; several where names repeat."""
    keys = [name, PurePosixPath(name).with_suffix("").as_posix(), *list_keys(name)]
    return next((by_key[key] for key in keys if key in by_key), [])
