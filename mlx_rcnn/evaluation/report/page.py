"""The page, from the report's numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..curves import Analysis
from .charts import curve_chart
from .style import CSS, SCRIPT
from .tables import classes_table, confusion_table, errors_table, images_table, metrics_rows
from .text import escape, number, percent, plural

GENERATOR = '<meta name="generator" content="mlx_rcnn evaluate --report">'
"""What tells a page of ours."""
KIND_NAMES = {"bbox": "Boxes", "segm": "Masks"}
_CHARTS = 12  # classes with a chart of their own
_CHANGED = 15


def html_page(report: Analysis, worst: Sequence[str], changed: Mapping[str, Sequence[str]]) -> str:
    """The whole page, in need of no other file, of the numbers and the images' figures."""
    name = escape(report["model"])
    against = report.get("against")
    title = f"{name} against {escape(against['model'])}" if against else name
    sections = [_summary(report)]
    for kind in report["analyses"]:
        sections.append(_kind(report, kind))
    sections.append(_pictures(report, worst))
    if against:
        # by title, figures of images that differ from the other model's
        sections.append(_compared(report, changed))
    links = [f'<a href="#{kind}">{KIND_NAMES[kind]}</a>' for kind in report["analyses"]]
    links.append('<a href="#worst">Worst images</a>')
    links += ['<a href="#compared">Better and worse</a>'] if against else []
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8">{GENERATOR}',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{CSS}</style></head><body>",
            f"<h1><bdi>{title}</bdi></h1>",
            f"<nav>{''.join(links)}</nav>",
            *sections,
            f"<script>{SCRIPT}</script></body></html>\n",
        ]
    )


def _summary(report: Analysis) -> str:
    found, against = report["metrics"], report.get("against")
    text = ", ".join(plural(found[key], key[:-1]) for key in ("images", "objects", "detections"))
    left = found["unreadable"]
    lines = [
        f"<p>{text} in <bdi>{escape(report['data'])}</bdi>"
        + (f"; left out, as unreadable: {plural(left, 'image')}" if left else "")
        + ". All numbers are percent, except counts and thresholds; small, medium and large end at "
        "areas of 32² and 96² pixels.</p>",
        metrics_rows(found, against["metrics"] if against else None),
    ]
    if against:
        lines.append(f"<p>Other: <bdi>{escape(against['model'])}</bdi>.</p>")
    if "keypoints_AP" in found:
        lines.append(
            "<p>Of keypoints only the AP is given: curves, errors and matrix are of boxes, as they "
            "need an IoU, which keypoints do not have.</p>"
        )
    return "\n".join(lines)


def _kind(report: Analysis, kind: str) -> str:
    """All that is told of boxes, or of masks."""
    found = report["analyses"][kind]
    other = report["against"]["analyses"].get(kind) if report.get("against") else None
    parts = [f'<h2 id="{kind}">{KIND_NAMES[kind]}</h2>', _threshold(found["best"], "the")]
    if other is not None:
        parts.append(_threshold(other["best"], "the other model's"))
    parts += [
        "<h3>What errors cost</h3>",
        "<p>dAP is what AP50 would gain if an error were put right and nothing else changed "
        f"(TIDE, Bolya et al. 2020; from AP50 {percent(found['tide_AP50'])}, of the best 100 "
        "detections of an image, classes that are found without having objects counted as 0). The "
        "gains do not add up.</p>",
        errors_table(found, other),
        "<h3>Precision and recall</h3>",
        _charts(found, other),
        "<h3>Classes</h3>",
        "<p>Threshold, precision, recall and F1 are where the F1 of the class is highest, at IoU "
        "0.5; the curve is that of AP50. To the right, how many errors of each kind.</p>",
        classes_table(found, other, f"classes-{kind}"),
        "<h3>Confusion</h3>",
        f"<p>Detections that score at least {number(found['confusion']['score_thresh'])}, at IoU "
        f"{found['confusion']['iou']:g}. A row is an object's class, a column what it is found as. "
        "Best first, detections take objects of their class, and what is left those of other "
        "classes; the last row is what is found where there is nothing, the last column what is "
        "not found. Detections in crowds are left out.</p>",
        confusion_table(found["confusion"], found["per_class"]),
    ]
    return "\n".join(parts)


def _threshold(best: Analysis, whose: str) -> str:
    if best["score_thresh"] is None:
        return "<p>Nothing was found.</p>"
    shares = ", ".join(f"{name} {percent(best[name])}" for name in ("precision", "recall", "F1"))
    return (
        f"<p>At IoU 0.5 {whose} best threshold is a score of "
        f"<b>{number(best['score_thresh'])}</b>: {shares}, all classes together.</p>"
    )


def _charts(found: Analysis, other: Analysis | None) -> str:
    """All classes, and those with most objects."""

    def chart(title: str, mine: Analysis, theirs: Analysis | None) -> str:
        curves = [(f"{key} {percent(mine[key])}", mine["curves"][key]) for key in mine["curves"]]
        if theirs is not None:
            curves.append((f"other AP50 {percent(theirs['AP50'])}", theirs["curves"]["AP50"]))
        return curve_chart(title, curves)

    rows = [(n, r) for n, r in found["per_class"].items() if r["objects"]]
    rows.sort(key=lambda row: -row[1]["objects"])
    theirs = {} if other is None else other["per_class"]
    charts = [chart(f"mean of {len(rows)} classes", found, other)] if len(rows) != 1 else []
    charts += [chart(name, row, theirs.get(name)) for name, row in rows[:_CHARTS]]
    text = f'<div class="charts">{"".join(charts)}</div>'
    if len(rows) > _CHARTS:
        text += f'<p class="soft">The {_CHARTS} classes with most objects; all are below.</p>'
    return text


def _pictures(report: Analysis, worst: Sequence[str]) -> str:
    if not worst:
        return '<h2 id="worst">Worst images</h2><p>There are none to show.</p>'
    thresh = number(report["analyses"][report["pictures"]]["confusion"]["score_thresh"])
    return (
        '<h2 id="worst">Worst images</h2><p>The lowest F1 first, at a score of '
        f"{thresh} and IoU 0.5; of equal ones those with more errors. Left what is found, right "
        "what is there: what is right in green, what is wrong, or not found, by name.</p>"
        f'<div class="sheet">{"".join(worst)}</div>'
    )


def _compared(report: Analysis, changed: Mapping[str, Sequence[str]]) -> str:
    difference = report["against"]["difference"][report["pictures"]]
    better = [row for row in difference["images"] if row["difference"] > 0]
    worse = [row for row in difference["images"] if row["difference"] < 0][::-1]
    name = escape(report["model"])
    parts = [
        '<h2 id="compared">Better and worse</h2>',
        f"<p><bdi>{name}</bdi> is better on {plural(len(better), 'image')} and worse on "
        f"{len(worse)} of {report['metrics']['images']}, by F1 at IoU 0.5, each model at its own "
        "best threshold. report.json has all.</p>",
    ]
    for title, rows in (("Better", better), ("Worse", worse)):
        if rows:
            parts += [f"<h3>{title}</h3>", images_table(rows[:_CHANGED])]
            parts.append(f'<div class="sheet">{"".join(changed.get(title, ()))}</div>')
    return "\n".join(parts)
