"""A timeline of a simulation: a row for every stage, its steps as bars, faults and plans as marks.

The one idea: the picture is a list of plain shapes; SVG writes them as they are, and matplotlib,
where it is installed, draws the same list for PNG.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.simulation.simulation import History

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 1200.0, 16.0, 150.0, 20.0, 30.0, 40.0
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
MARK_COLOURS = {"fault": "#cc0000", "plan": "#888888", "change": "#0055cc", "missed": "#cc9900"}
MAX_TICKS = 10


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A piece of text that begins, or ends, at a point of its baseline."""

    x: float
    y: float
    text: str
    ends_here: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Shapes on a sheet of a size; y grows downwards."""

    width: float
    height: float
    shapes: Sequence[Box | Label]


def save_plot(history: History, path: Path) -> None:
    """Draw a simulation into a file, by the ending of its name.

    Raises:
        ConfigError: the ending is none we know, or PNG needs what is not installed.
    """
    writers: dict[str, Callable[[Picture, Path], None]] = {".svg": _write_svg, ".png": _write_png}
    check_plot(path)
    writers[path.suffix](timeline(history), path)


def check_plot(path: Path) -> None:
    """Refuse what `save_plot` could not write, before any time was spent on it.

    Raises:
        ConfigError: the ending is none we know, or PNG needs what is not installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"plot: expected a name that ends in .svg or .png, got {path.name!r}")
    if path.suffix == ".png":
        _matplotlib()


def timeline(history: History) -> Picture:
    """The picture of a simulation."""
    record, start_s = history.record, history.start_s
    elapsed_s = history.end_s - start_s
    workers = sorted(record.places, key=lambda worker: _order(record.places[worker].stage))
    height = TOP + ROW * len(workers) + BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / elapsed_s

    def x(at_s: float) -> float:
        return LEFT + min(max(at_s - start_s, 0.0), elapsed_s) * scale

    shapes: list[Box | Label] = []
    for row, worker in enumerate(workers):
        stage, y = record.places[worker].stage, TOP + ROW * row
        colour = COLOURS[_order(stage)[0] % len(COLOURS)]
        shapes.append(Label(LEFT - 6, y + ROW - 5, f"{stage}  {worker}", ends_here=True))
        for bar in record.rows[worker].bars:
            width = max(x(bar.end_s) - x(bar.start_s), 0.3)
            opacity = max(0.15, min(1.0, bar.busy_s / max(bar.end_s - bar.start_s, 1e-9)))
            shapes.append(Box(x(bar.start_s), y + 2, width, ROW - 4, colour, round(opacity, 2)))
    for mark in record.marks:
        if mark.at_s >= start_s:
            title = f"{mark.at_s - start_s:.2f} s  {mark.text}"
            colour = MARK_COLOURS[mark.kind]
            shapes.append(Box(x(mark.at_s), TOP - 8, 1.2, height - TOP, colour, 0.8, title))
    return Picture(WIDTH, height, [*shapes, *_axis(elapsed_s, scale, height)])


def _axis(elapsed_s: float, scale: float, height: float) -> list[Label]:
    step = _nice_step(elapsed_s / MAX_TICKS)
    count = int(elapsed_s / step) + 1
    return [Label(LEFT + i * step * scale, height - 12, f"{i * step:g} s") for i in range(count)]


def _nice_step(least: float) -> float:
    """The least of 1, 2, 5, 10, ... times a power of ten that is not below.

    Example:
        >>> [_nice_step(value) for value in (0.03, 3.0, 7.0)]
        [0.05, 5.0, 10.0]
    """
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return round(factor * power, 9)
        power *= 10


def _order(stage: str) -> tuple[int, ...]:
    return tuple(int(part) for part in stage.split("."))


def _write_svg(picture: Picture, path: Path) -> None:
    size = f'width="{picture.width:g}" height="{picture.height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
        *(_svg_of(shape) for shape in picture.shapes),
        "</svg>",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _svg_of(shape: Box | Label) -> str:
    if isinstance(shape, Label):
        anchor = ' text-anchor="end"' if shape.ends_here else ""
        return f'<text x="{shape.x:.2f}" y="{shape.y:.2f}"{anchor}>{escape(shape.text)}</text>'
    place = f'x="{shape.x:.2f}" y="{shape.y:.2f}"'
    size = f'width="{shape.width:.2f}" height="{shape.height:.2f}"'
    paint = f'fill="{shape.colour}" fill-opacity="{shape.opacity:g}"'
    title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
    return f"<rect {place} {size} {paint}>{title}</rect>"


def _write_png(picture: Picture, path: Path) -> None:
    figure_module, patches = _matplotlib()
    figure = figure_module.Figure(figsize=(picture.width / 100, picture.height / 100), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.axis("off")
    for shape in picture.shapes:
        if isinstance(shape, Label):
            side = "right" if shape.ends_here else "left"
            axes.text(shape.x, shape.y, shape.text, fontsize=6, ha=side)
        else:
            corner = (shape.x, shape.y)
            paint = {"color": shape.colour, "alpha": shape.opacity, "linewidth": 0}
            axes.add_patch(patches.Rectangle(corner, shape.width, shape.height, **paint))
    figure.savefig(path)


def _matplotlib() -> tuple[Any, Any]:
    try:
        figure = importlib.import_module("matplotlib.figure")
        return figure, importlib.import_module("matplotlib.patches")
    except ImportError:
        what = "plot: .png needs matplotlib (pip install 'remuda[plot]'); .svg needs nothing"
        raise ConfigError(what) from None
