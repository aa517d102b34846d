"""The page's tables: metrics, errors, classes, confusion, images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..curves import Analysis
from .charts import bar, spark
from .text import KIND_WORDS, change, escape, number, percent

_LONG = 40  # rows, above which a table scrolls and can be searched
_MATRIX = 30  # classes of a matrix that a screen holds
_PAIRS = 20


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], name: str = "", long: bool = False
) -> str:
    """A table of cells that are HTML already; with a name it sorts, a long one scrolls."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    # the classes' tables begin with ``classes``
    marks = f' id="{name}" class="sorts {name.split("-")[0]}"' if name else ""
    # what a long one is searched by
    search = f'<input type="search" hidden data-table="{name}" placeholder="find a class">'
    return (
        f'{search if long else ""}<div class="wide{" tall" if long else ""}"><table{marks}>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def metrics_rows(found: Analysis, other: Analysis | None) -> str:
    """COCO's metrics of each kind; beside them, if there is one, the other model's."""
    kinds = {"box": "", "mask": "segm_", "keypoint": "keypoints_"}
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    rows = []
    for kind, prefix in kinds.items():
        if f"{prefix}AP" not in found:
            continue
        values = {c: found.get(prefix + c) for c in columns}
        rows.append([kind, *(percent(v) for v in values.values())])
        if other is not None and f"{prefix}AP" in other:
            theirs = {c: other.get(prefix + c) for c in columns}
            rows.append([f"{kind}, other", *(percent(v) for v in theirs.values())])
            changes = [change(less(values[c], theirs[c])) for c in columns]
            rows.append([f"{kind}, difference", *changes])
    return table(["", *columns], rows)


def less(a: float | None, b: float | None) -> float | None:
    """A difference; ``None`` if one is not there."""
    return None if a is None or b is None else a - b


def errors_table(found: Analysis, other: Analysis | None) -> str:
    """TIDE's kinds with bars, and false positives and negatives."""
    sides = [found] if other is None else [found, other]
    extra = {"false positives": "false_positives", "false negatives": "false_negatives"}
    values = [r["dAP"] for s in sides for r in s["errors"].values()]
    values += [s[key] for s in sides for key in extra.values()]
    largest = max((v for v in values if v == v), default=0.0)
    rows = []
    for kind, words in KIND_WORDS.items():
        mine = [s["errors"][kind] for s in sides]
        counts = "/".join(str(r["count"]) for r in mine)
        costs = _costs([r["dAP"] for r in mine], largest)
        rows.append([kind, *costs, counts, f'<span class="soft left">{words}</span>'])
    for name, key in extra.items():
        rows.append([name, *_costs([s[key] for s in sides], largest), "", ""])
    heads = ["error", "dAP"] if other is None else ["error", "dAP", "other", "difference"]
    return table([*heads, "", "count" if other is None else "count/other", ""], rows)


def _costs(values: Sequence[float], largest: float) -> list[str]:
    cells = [percent(v) for v in values]
    if len(values) == 2:
        cells.append(change(values[0] - values[1], coloured=False))  # less is better
    bars = [bar(v, largest, i > 0) for i, v in enumerate(values)]
    return [*cells, "<br>".join(bars)]


def classes_table(found: Analysis, other: Analysis | None, name: str) -> str:
    """A row a class that has objects or detections."""
    theirs = {} if other is None else other["per_class"]
    used = {n: r for n, r in found["per_class"].items() if r["objects"] or r["detections"]}
    heads = ["class", "objects", "found", "AP", "AP50", "AP75"]
    if other is not None:
        heads += ["other AP", "difference"]
    heads += ["threshold", "precision", "recall", "F1", "curve", *KIND_WORDS]
    rows = []
    for own, row in used.items():
        best = row["best"]
        cells = [f'<bdi title="{escape(own)}">{escape(own)}</bdi>']
        cells += [str(row["objects"]), str(row["detections"])]
        cells += [percent(row[key]) for key in ("AP", "AP50", "AP75")]
        if other is not None:
            ap = theirs[own]["AP"] if own in theirs else None
            cells += [percent(ap), change(less(row["AP"], ap))]
        cells.append(number(best["score_thresh"]))
        cells += [percent(best[key]) for key in ("precision", "recall", "F1")]
        cells.append(spark(row["curves"]["AP50"]))
        cells += [str(count) for count in row["errors"].values()]
        rows.append(cells)
    text = table(heads, rows, name, len(rows) > _LONG)
    idle = len(found["per_class"]) - len(used)
    if idle:
        word = "classes have" if idle != 1 else "class has"
        text += f'<p class="soft">{idle} {word} neither objects nor detections.</p>'
    return text


def confusion_table(confusion: Analysis, order: Iterable[str]) -> str:
    """The matrix, or of many classes those that are confused most; in the order of all names."""
    cells = {(true, found): count for true, found, count in confusion["cells"]}
    used = {name for pair in cells for name in pair}
    names = [name for name in order if name in used]
    mixed: Counter[str] = Counter()
    for (true, found), count in cells.items():
        if true and found and true != found:
            mixed.update({true: count, found: count})
    text = ""
    shown = names
    if len(names) > _MATRIX:
        shown = [n for n, _ in mixed.most_common(_MATRIX)]
        text = (
            f'<p class="soft">{len(shown)} of {len(names)} classes, those most often taken for '
            f"another or another for them; report.json has all.</p>{_pairs(cells)}"
        )
    sums = Counter(dict.fromkeys([*shown, ""], 0))
    for (true, _), count in cells.items():
        sums[true] += count
    head = "".join(
        f'<th class="turned"><bdi>{escape(n or "background")}</bdi></th>' for n in [*shown, ""]
    )
    rows = []
    for true in [*shown, ""]:
        row = "".join(_cell(cells, true, found, sums[true]) for found in [*shown, ""])
        rows.append(f"<tr><th><bdi>{escape(true or 'background')}</bdi></th>{row}</tr>")
    return (
        f'{text}<div class="wide"><table class="matrix"><thead><tr><th>object \\ found as</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(cells: Mapping[tuple[str, str], int], true: str, found: str, total: int) -> str:
    if not true and not found:
        return "<td></td>"
    count = cells.get((true, found), 0)
    if not count:
        return '<td class="soft">0</td>'
    wrong = "" if true == found else " wrong"
    return f'<td class="n{wrong}" style="--p:{round(70 * count / max(total, 1))}%">{count}</td>'


def _pairs(cells: Mapping[tuple[str, str], int]) -> str:
    pairs = [
        (n, true, found) for (true, found), n in cells.items() if true and found and true != found
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [
        [f"<bdi>{escape(t)}</bdi>", f"<bdi>{escape(f)}</bdi>", str(n)] for n, t, f in pairs[:_PAIRS]
    ]
    return table(["object", "found as", "times"], rows)


def images_table(rows: Sequence[Analysis]) -> str:
    """Images that differ between two models."""
    cells = []
    for row in rows:
        sides = [
            f"{side['right']} / {side['wrong']} / {side['missed']}"
            for side in (row["one"], row["other"])
        ]
        cells.append([f"<bdi>{escape(row['image_id'])}</bdi>", *sides, change(row["difference"])])
    return table(["image", "right / wrong / missed", "other", "F1, difference"], cells)
