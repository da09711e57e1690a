"""Curves of requests in time against the scale of latencies, as a picture by matplotlib."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#bbbbbb", "#4477aa", "#ccbb44", "#ee6677")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One system on one scenario.

    Attributes:
        panel: which picture it belongs in.
        name: of the system.
        scales: multiples of the latencies of a request alone.
        parts: of the requests in time, at each scale.
        estimates: what the planner expected, where it says.
    """

    panel: str
    name: str
    scales: tuple[float, ...]
    parts: tuple[float, ...]
    estimates: tuple[float | None, ...]


def save_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw them, a panel for each scenario.

    Raises:
        ValueError: the ending is neither .svg nor .png, or matplotlib is not installed.
    """
    check_plot(path)
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    figure = _matplotlib("figure").Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel, [curve for curve in curves if curve.panel == panel])
    axes[0].set_ylabel("requests in time, %")
    axes[0].legend(fontsize=8)
    figure.savefig(path)


def check_plot(path: Path) -> None:
    """Refuse what cannot be drawn, before anything is computed for it.

    Raises:
        ValueError: the ending is neither .svg nor .png, or matplotlib is not installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"plot: expected a name that ends in .svg or .png, got {path.name!r}")
    _matplotlib("figure")


def _draw(axis: Any, panel: str, curves: Sequence[Curve]) -> None:
    for curve, colour in zip(curves, COLOURS, strict=False):
        percent = [100 * part for part in curve.parts]
        axis.plot(curve.scales, percent, marker="o", markersize=3, color=colour, label=curve.name)
    axis.set_title(panel, fontsize=10)
    axis.set_xscale("log", base=2)
    axis.set_xticks(curves[0].scales, [f"{scale:g}" for scale in curves[0].scales], fontsize=8)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("latencies allowed, times a request alone")
    axis.set_ylim(0, 103)
    axis.grid(alpha=0.3)


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError:
        raise ValueError("plot: needs matplotlib: pip install 'remuda[plot]'") from None
