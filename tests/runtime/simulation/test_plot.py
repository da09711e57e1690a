import doctest
import importlib.util
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.simulation import plot
from runtime.simulation.plot import Box, Label, check_plot, save_plot, timeline
from tests.runtime.simulation.test_report import history, outcome

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
SVG = "{http://www.w3.org/2000/svg}"


def test_the_examples_hold() -> None:
    assert doctest.testmod(plot).failed == 0


def test_a_step_is_a_bar_in_its_stages_row_at_its_time() -> None:
    picture = timeline(history(outcome(0)))
    (bar,) = (shape for shape in picture.shapes if isinstance(shape, Box) and not shape.title)
    (name,) = (shape for shape in picture.shapes if isinstance(shape, Label) and shape.ends_here)
    across = plot.WIDTH - plot.LEFT - plot.RIGHT
    assert name.text == "0.0  a/0"
    assert bar.x == pytest.approx(plot.LEFT + 0.1 * across)
    assert bar.width == pytest.approx(0.5 * across)
    assert bar.y < name.y < bar.y + bar.height


def test_faults_are_marked_and_what_came_before_the_service_was_up_is_not() -> None:
    titles = [s.title for s in timeline(history(outcome(0))).shapes if isinstance(s, Box)]
    assert [title for title in titles if title] == ["2.00 s  kill [stage] 0.0"]


def test_the_axis_counts_seconds_from_when_the_service_was_up() -> None:
    shapes = timeline(history(outcome(0))).shapes
    ticks = [s for s in shapes if isinstance(s, Label) and not s.ends_here]
    assert [tick.text for tick in ticks] == [f"{i} s" for i in range(11)]
    assert all(one.x < other.x for one, other in pairwise(ticks))


def test_svg_is_xml_with_a_shape_for_each_of_the_pictures(tmp_path: Path) -> None:
    path, found = tmp_path / "timeline.svg", history(outcome(0))
    found.record.mark(13.0, "fault", "<&>")
    save_plot(found, path)
    root = ET.fromstring(path.read_text())
    shapes = timeline(found).shapes
    assert len(root.findall(f"{SVG}rect")) == 1 + sum(isinstance(s, Box) for s in shapes)
    assert len(root.findall(f"{SVG}text")) == sum(isinstance(s, Label) for s in shapes)
    assert "3.00 s  <&>" in [title.text for title in root.iter(f"{SVG}title")]


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="needs matplotlib")
def test_png_is_drawn_where_matplotlib_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    save_plot(history(outcome(0)), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_png_without_matplotlib_is_refused_before_anything_is_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib .*; .svg needs nothing"):
        check_plot(Path("timeline.png"))


def test_another_ending_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a name that ends in .svg or .png"):
        check_plot(Path("timeline.jpg"))
