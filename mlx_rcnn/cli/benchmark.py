"""``mlx_rcnn benchmark``: time and memory on this machine, a table to send."""

from __future__ import annotations

import argparse
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path

from ..benchmark.cases import CASES, Case, growth
from ..benchmark.growth import draw_growth
from ..benchmark.measure import OURS, THEIRS, Measured, describe_theirs, measure
from ..benchmark.table import Row, content, heading, row
from ..messages import nearest
from .doctor.command import describe_machine
from .errors import CommandError
from .preflight import check_writable, make_folders
from .said import say_problem

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def run(args: argparse.Namespace) -> int:
    """Measure, print a Markdown table, and write what is asked for; 1 if a case of ours failed."""
    _check(args)
    libraries = _libraries(args.against)
    machine = {**describe_machine(), "power": power_mode()}
    if THEIRS in libraries:
        machine["against"] = describe_theirs()
    for name, value in machine.items():
        print(f"{name:<9} {value}")
    print(f"\n{heading(libraries)}")
    rows: list[Row] = []
    for name in args.cases or CASES:
        rows.append((CASES[name], measure(CASES[name], libraries, args.rounds)))
        print(row(*rows[-1]), flush=True)
    if args.growth:
        rows += _grow(libraries, args.rounds, Path(args.growth))
    if args.json is not None:
        args.json.write_content(content(machine, rows))
    failed = [case.title for case, found in rows if found[OURS].failed]
    if failed:
        say_problem(f"failed: {'; '.join(failed)}")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is measured."""
    for name in args.cases:
        if name not in CASES:
            raise CommandError(
                f"case {name!r}: expected some of {', '.join(CASES)}{nearest(name, CASES)}"
            )
    if args.growth and find_spec("matplotlib") is None:
        raise CommandError('--growth needs matplotlib: pip install "mlx-rcnn[plots]"')
    if args.json is not None:
        args.json.check()
    if args.growth:
        folder = Path(args.growth).parent
        check_writable(folder)
        make_folders([folder])


def _libraries(against: str) -> list[str]:
    """Ours, and torchvision where it is asked for or, by default, installed."""
    there = all(find_spec(name) is not None for name in ("torch", "torchvision"))
    if against == "torchvision" and not there:
        raise CommandError("--against torchvision: pip install torch torchvision")
    return [OURS, THEIRS] if there and against != "nothing" else [OURS]


def _grow(libraries: list[str], rounds: int, path: Path) -> list[Row]:
    """Measure how cost grows, print it, and draw it."""
    rows: list[Row] = []
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    print(f"\n| what grows | to | {' | '.join(libraries)} |\n|---|---|{'---|' * len(libraries)}")
    for axis, cases in growth().items():
        curves[axis] = {library: [] for library in libraries}
        for value, case in cases:
            found = measure(case, libraries, rounds)
            titled = Case(f"{axis}: {value:g}", case.kind, case.options)
            rows.append((titled, found))
            for library, measured in found.items():
                if measured.seconds:
                    curves[axis][library].append((value, measured.median))
            cells = " | ".join(_cell(found[library]) for library in libraries)
            print(f"| {axis} | {value:.4g} | {cells} |", flush=True)
    draw_growth(curves, path)
    print(f"\nwrote {path}")
    return rows


def _cell(found: Measured) -> str:
    return f"{found.median * 1e3:.1f} ms" if found.seconds else f"failed: {found.failed[:60]}"


def power_mode() -> str:
    """What bounds the machine's clock, as far as it says."""
    if platform.system() == "Darwin":
        said = subprocess.run(["pmset", "-g"], capture_output=True, text=True, check=False).stdout
        modes = [line.split() for line in said.splitlines() if "powermode" in line]
        return ", ".join(" ".join(words[:2]) for words in modes) or "not said"
    try:
        return f"governor {_GOVERNOR.read_text().strip()}"
    except OSError:
        return "not said"
