"""The page that tells of a run: HTML with its style, charts and pictures in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from .config import TrainConfig
from .loggers import Line, flat
from .metrics import deciding_score, smooth
from .svg import chart

SHOWN = ("AP", "AP50", "AP75", "segm_AP", "segm_AP50", "keypoints_AP", "keypoints_AP50")
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1180px;padding:0 1em;
background:#fff;color:#222}
.charts,.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1em}
svg{width:100%;border:1px solid #8884;border-radius:6px}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg .title{font-weight:600}svg .x{text-anchor:middle}svg .y,svg .legend{text-anchor:end}
svg .grid{stroke:#8884}svg polyline{fill:none;stroke-width:1.6}
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .8em .15em 0;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.best{font-weight:700}
tr{border-bottom:1px solid #8883}img{width:100%}.scroll{overflow-x:auto}figure{margin:0}
b.set{color:#b5530d}.columns{display:flex;flex-wrap:wrap;gap:0 4em}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}b.set{color:#f0a868}}
"""


def page(title: str, lines: Sequence[Line], about: Line, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML; the pictures are JPEGs by what they are."""
    steps = [line for line in lines if line.get("kind") == "step"]
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    best, name = _best(epochs, about)
    body = [
        f"<h1>{escape(title)}</h1>",
        _head(steps, epochs, best, name, about),
        _charts(steps, epochs),
        _epoch_table(epochs, best),
        _figures(pictures),
        f'<div class="columns">{_classes(best)}{_data(about)}</div>',
        _settings(about),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def _best(epochs: Sequence[Line], about: Line) -> tuple[Line | None, str]:
    """The epoch whose deciding metric is the greatest, and the metric's name."""
    best: Line | None = None
    given = (about.get("settings") or {}).get("metric")
    score, name = float("-inf"), str(given or about.get("usual_metric") or "AP")
    for line in epochs:
        scores = {k: v for k, v in (line.get("metrics") or {}).items() if v is not None}
        found, value = deciding_score(scores, None, name)
        if value is not None and value > score:
            best, score, name = line, value, found
    return best, name


def _head(
    steps: Sequence[Line], epochs: Sequence[Line], best: Line | None, name: str, about: Line
) -> str:
    settings = about.get("settings") or {}
    total = f" of {settings['epochs']}" if "epochs" in settings else ""
    seconds = sum(line.get("seconds") or 0 for line in epochs)
    texts = []
    if about:
        source = f" from {about['source']}" if about.get("source") else ", untrained"
        texts.append(f"{about['model']}{source}")
    plural = "" if len(epochs) == 1 and not total else "s"
    texts.append(
        f"{len(epochs)}{total} epoch{plural}, {steps[-1]['step'] if steps else 0} steps, "
        f"{_duration(seconds)} of training"
    )
    if best is not None:
        texts.append(f"best epoch: {best['epoch']}, {name} {best['metrics'][name]:.4f}")
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _charts(steps: Sequence[Line], epochs: Sequence[Line]) -> str:
    def of_steps(name: str, smoothed: bool = True) -> list[tuple[float, float]]:
        known = [(line["step"], line[name]) for line in steps if line.get(name) is not None]
        values = np.array([y for _, y in known])
        means = smooth(values) if smoothed else values
        return [(x, y) for (x, _), y in zip(known, means.tolist(), strict=True)]

    def of_epochs(name: str) -> list[tuple[float, float]]:
        rows = [(line["epoch"], (line.get("metrics") or {}).get(name)) for line in epochs]
        return [(x, y) for x, y in rows if y is not None]

    losses = [name for name in (steps[-1] if steps else {}) if name.endswith("_loss")]
    drawn = [
        chart(
            "losses (mean of 20 steps)",
            {name.removesuffix("_loss"): of_steps(name) for name in losses},
            "step",
        ),
        chart("validation", {name: of_epochs(name) for name in SHOWN}, "epoch", dots=True),
        chart("learning rate", {"lr": of_steps("lr", False)}, "step"),
        chart("norm of the gradient", {"norm": of_steps("norm")}, "step"),
        chart("images a second", {"images/s": of_steps("images_per_s")}, "step"),
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _epoch_table(epochs: Sequence[Line], best: Line | None) -> str:
    if not epochs:
        return ""
    found = {name for line in epochs for name in line.get("metrics") or {}}
    names = [name for name in SHOWN if name in found]
    rows = []
    for line in epochs:
        scores = line.get("metrics") or {}
        cells = [line["epoch"], line["step"], *(_number(scores.get(name), 4) for name in names)]
        cells += [_number(line.get("images_per_s"), 1), _number(line.get("seconds"), 0)]
        memory = line.get("peak_memory")
        cells.append(_number(None if memory is None else memory / 1e9, 2))
        kind = ' class="best"' if line is best else ""
        rows.append(f"<tr{kind}>{_cells(cells)}</tr>")
    head = _cells(["epoch", "step", *names, "images/s", "seconds", "GB"], "th")
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<details open><summary>Epochs</summary>{table}</details>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _cells(values: Sequence[object], kind: str = "td") -> str:
    return "".join(f'<{kind} class="n">{escape(str(value))}</{kind}>' for value in values)


def _figures(pictures: Mapping[str, bytes]) -> str:
    """Pictures side by side."""
    figures = "".join(
        f'<figure><figcaption>{escape(text)}</figcaption><img alt="{escape(text)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(data).decode()}"></figure>'
        for text, data in pictures.items()
    )
    return f'<div class="pictures">{figures}</div>'


def _classes(best: Line | None) -> str:
    """AP by class of the best epoch."""
    rows = (best or {}).get("metrics", {}).get("per_class")
    if not isinstance(rows, Mapping) or not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = _cells(names, "th")
    lines = [
        f"<tr><td>{escape(label)}</td>{_cells([_value(row.get(name)) for name in names])}</tr>"
        for label, row in rows.items()
    ]
    table = f"<table><tr><th>class</th>{head}</tr>{''.join(lines)}</table>"
    return f"<div><h2>Classes, best epoch</h2>{table}</div>"


def _value(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _data(about: Line) -> str:
    sets: Mapping[str, Line] = about.get("data") or {}
    if not sets:
        return ""
    names = list(sets)
    rows = [("images", [found["images"] for found in sets.values()])]
    if all("objects" in found for found in sets.values()):
        rows.append(("images without objects", [found["empty"] for found in sets.values()]))
        for label in about["classes"]:
            rows.append((label, [found["objects"].get(label, 0) for found in sets.values()]))
    lines = [f"<tr><td>{escape(name)}</td>{_cells(values)}</tr>" for name, values in rows]
    table = f"<table><tr><th></th>{_cells(names, 'th')}</tr>{''.join(lines)}</table>"
    return f"<div><h2>Data</h2>{table}</div>"


def _settings(about: Line) -> str:
    """Settings, those that are not the defaults marked, and versions."""
    if not about:
        return ""
    usual = {k: v.default for k, v in TrainConfig.__dataclass_fields__.items()}
    rows = []
    for name, value in about["settings"].items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        known = usual.get(name)
        same = value == (list(known) if isinstance(known, tuple) else known)
        shown = escape(text) if same else f'<b class="set">{escape(text)}</b>'
        rows.append(f"<tr><td>{escape(name)}</td><td>{shown}</td></tr>")
    versions = {**about["versions"], "system": about["system"]}
    others = "".join(
        f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in flat(versions).items()
    )
    return (
        '<div class="columns"><div><h2>Settings</h2><p>Bold: not the default.</p>'
        f"<table>{''.join(rows)}</table></div>"
        f"<div><h2>Versions</h2><table>{others}</table></div></div>"
    )
