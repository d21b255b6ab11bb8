"""What every chart is drawn with: colours by meaning, the theme's ink, quiet axes, labels in place."""

from __future__ import annotations

from math import log10
from typing import Any

from plotly import io as pio
from plotly.basedatatypes import BaseFigure
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib import streamlit_plotly_theme

Chart = dict[str, Any]

BLUE, ORANGE, PURPLE, GREY, FREE = "#3b83c0", "#e69f00", "#b36aa8", "#8a8f98", "rgba(138,143,152,0.18)"
RED, GREEN = "#d55e00", "#009e73"
LINE = "#80868f"  # thin lines and their labels, on either ground
TEMPLATE = pio.templates["streamlit"].to_plotly_json()  # what the browser fills with the theme's colours
INK = getattr(streamlit_plotly_theme, "GRAY_90", LINE)  # a mark that the browser replaces by the theme's text
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
CONFIG = {"displayModeBar": False}


class Drawn(BaseFigure):  # type: ignore[misc]
    """A chart as it is drawn: plotly checks a dictionary anew in every run, which takes longer than the estimate.

    `tests/test_charts.py` has plotly check them instead.
    """

    def __init__(self, chart: Chart) -> None:
        self._chart = chart

    def to_dict(self) -> Chart:
        """The dictionary."""
        return self._chart


def faint(colour: str) -> str:
    """A colour at 20 % opacity, for intervals."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def draw(place: DeltaGenerator, key: str, chart: Chart, words: str) -> None:
    """Show a chart; `words` say its conclusion to those who do not see it."""
    place.plotly_chart(Drawn(chart), key=key, config=CONFIG, alt=words)


def point(x: float, y: float | None, colour: str, axis: str) -> Chart:
    """The scenario itself on a curve."""
    marker = {"size": 11, "color": colour, "line": {"width": 2, "color": "#fff"}}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [y],
        "yaxis": axis,
        "marker": marker,
        "hoverinfo": "skip",
    }


def thin() -> Chart:
    """A thin dotted line: capacities and objectives."""
    return {"line": {"color": LINE, "width": 1.5, "dash": "dot"}}


def frame(height: int, margin: dict[str, int]) -> Chart:
    """Size and ink of a chart."""
    return {"height": height, "margin": margin, "font": FONT, "dragmode": False, "template": TEMPLATE}


def scale(title: str) -> Chart:
    """A quiet axis with its title."""
    return {
        "title": {"text": title, "standoff": 8, "font": FONT},
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
        "ticks": "outside",
        "tickfont": FONT | {"size": 12},
        "color": INK,
    }


def label_at(x: float, y: float, text: str, anchor: str) -> Chart:
    """A label in place."""
    return {"x": x, "y": y, "text": text, "showarrow": False, "xanchor": anchor, "font": FONT | {"size": 12}}


def label_over(x: float, text: str, side: str, y: float = 1.0) -> Chart:
    """A label at a place of the x axis, `y` of the way up the chart."""
    return label_at(x, y, text, side) | {"yref": "paper", "yanchor": "bottom"}


def log_place(value: float) -> float:
    """A position on a logarithmic axis, as annotations want it."""
    return log10(max(value, 1e-9))
