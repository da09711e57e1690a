"""A plan as a picture: a row for each pipeline, a box for each stage, as wide as its layers.

SVG is written as text; PNG is drawn from the same boxes by matplotlib, where that is installed.
"""

import importlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from scheduling.errors import SchedulingError
from scheduling.planner import Outcome

WIDTH, ROW, LEFT, RIGHT, TOP = 1200.0, 26.0, 170.0, 20.0, 30.0
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


class PlotError(SchedulingError):
    """A picture cannot be written; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class StageBox:
    """A stage's place in the picture, its text, and what a pointer over it shows."""

    x: float
    y: float
    width: float
    colour: str
    text: str
    title: str


def check_plot(path: Path) -> None:
    """Refuse what `save_plot` could not write, before any time was spent on it.

    Raises:
        PlotError: the ending is none we know, or PNG needs what is not installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise PlotError(f"plot: expected a name that ends in .svg or .png, got {path.name!r}")
    if path.suffix == ".png":
        _matplotlib("figure")


def save_plot(outcome: Outcome, path: Path) -> None:
    """Draw a plan into a file, by the ending of its name.

    Raises:
        PlotError: see `check_plot`.
    """
    check_plot(path)
    rows, drawn = labels(outcome), boxes(outcome)
    if path.suffix == ".svg":
        path.write_text(to_svg(rows, drawn), encoding="utf-8")
    else:
        _write_png(rows, drawn, path)


def labels(outcome: Outcome) -> list[str]:
    """What stands before each pipeline's row."""
    mean_output = outcome.problem.workload.mean_output
    pairs = zip(outcome.solution.placement.pipelines, outcome.evaluation.forecasts, strict=True)
    return [
        f"{number} {pipeline.phase}: {forecast.requests_per_s * mean_output:,.0f} tokens/s"
        for number, (pipeline, forecast) in enumerate(pairs)
    ]


def boxes(outcome: Outcome) -> list[StageBox]:
    """All stages."""
    cluster, num_layers = outcome.problem.cluster, outcome.problem.shape.num_layers
    kinds = sorted({kind for node in cluster.nodes for kind in node.devices})
    scale = (WIDTH - LEFT - RIGHT) / num_layers
    found = []
    for row, (pipeline, forecast) in enumerate(
        zip(outcome.solution.placement.pipelines, outcome.evaluation.forecasts, strict=True)
    ):
        for stage, seconds in zip(pipeline.stages, forecast.stage_s, strict=True):
            kind = cluster.node(stage.group.node).devices[stage.group.devices[0]]
            tp = f" x{len(stage.group.devices)}" if len(stage.group.devices) > 1 else ""
            found.append(
                StageBox(
                    LEFT + stage.start * scale,
                    TOP + row * ROW,
                    (stage.end - stage.start) * scale - 1,
                    COLOURS[kinds.index(kind) % len(COLOURS)],
                    f"{kind}{tp}",
                    f"{stage.group.node} layers {stage.start}:{stage.end}, "
                    f"{seconds * 1e3:.2f} ms a step",
                )
            )
    return found


def to_svg(rows: list[str], drawn: list[StageBox]) -> str:
    """The picture as SVG."""
    size = f'width="{WIDTH:g}" height="{TOP + ROW * len(rows) + 10:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
    ]
    for row, text in enumerate(rows):
        lines.append(f'<text x="8" y="{TOP + row * ROW + 15:g}">{escape(text)}</text>')
    for box in drawn:
        lines.append(
            f'<rect x="{box.x:.1f}" y="{box.y:g}" width="{box.width:.1f}" height="{ROW - 4:g}" '
            f'fill="{box.colour}"><title>{escape(box.title)}</title></rect>'
        )
        if box.width > 7 * len(box.text):
            lines.append(
                f'<text x="{box.x + 4:.1f}" y="{box.y + 15:g}" fill="white">{escape(box.text)}'
                f"</text>"
            )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _write_png(rows: list[str], drawn: list[StageBox], path: Path) -> None:
    height = TOP + ROW * len(rows) + 10
    figure = _matplotlib("figure").Figure(figsize=(WIDTH / 100, height / 100), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    for row, text in enumerate(rows):
        axes.text(8, TOP + row * ROW + 15, text, fontsize=6)
    for box in drawn:
        corner = (box.x, box.y)
        shape = _matplotlib("patches").Rectangle(corner, box.width, ROW - 4, color=box.colour)
        axes.add_patch(shape)
        if box.width > 7 * len(box.text):
            axes.text(box.x + 4, box.y + 15, box.text, fontsize=6, color="white")
    figure.savefig(path)


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError:
        raise PlotError("plot: .png needs matplotlib installed; .svg needs nothing") from None
