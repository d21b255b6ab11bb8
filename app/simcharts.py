"""Charts of a simulation: how times are spread over requests, and what the engines hold over time."""

from __future__ import annotations

from typing import NamedTuple

from drawing import BLUE, FONT, GREY, ORANGE, Chart, frame, label_at, scale, thin
from planner.explain import figure
from simulating import Seen

SHOWN = (50, 90, 99)  # percentiles that are marked
MOST = 99.5  # percent of requests up to which the axis reaches: the last ones would squeeze the rest
SECOND_MS = 1e3


class Panel(NamedTuple):
    """One of the panels that stand side by side: what is drawn in it, and what it says."""

    data: Chart
    marks: list[Chart]
    axis: Chart
    note: Chart
    words: str


def spread(seen: Seen) -> tuple[Chart, str]:
    """Share of requests that wait at most so long for the first token, and between tokens."""
    wanted = (("ttft", "first token", ORANGE), ("tpot", "between tokens", BLUE))
    drawn = [one for one in wanted if seen.spreads[one[0]]]
    panels = [_panel(seen, one, (at, len(drawn))) for at, one in enumerate(drawn)]
    layout = (
        frame(height=300, margin={"l": 44, "r": 12, "t": 24, "b": 48})
        | {f"xaxis{_number(at)}": panel.axis for at, panel in enumerate(panels)}
        | {
            "showlegend": False,
            "yaxis": scale("% of requests") | {"range": [0, 102], "tickvals": [0, *SHOWN]},
            "shapes": [mark for panel in panels for mark in panel.marks],
            "annotations": [panel.note for panel in panels],
        }
    )
    return {"data": [panel.data for panel in panels], "layout": layout}, " ".join(panel.words for panel in panels)


def _number(at: int) -> str:
    """Of an axis: the first has none."""
    return str(at + 1) if at else ""


def _panel(seen: Seen, figure_of: tuple[str, str, str], place: tuple[int, int]) -> Panel:
    """The times of one figure (name, title, colour) at one of so many places."""
    (name, title, colour), (at, count) = figure_of, place
    x, unit = _in_unit(seen.spreads[name])
    axis = f"x{_number(at)}"
    domain = [at / count + (0.04 if at else 0), (at + 1) / count - (0.04 if at + 1 < count else 0)]
    last = max(i for i, share in enumerate(seen.shares) if share <= MOST)
    data = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": seen.shares,
        "xaxis": axis,
        "yaxis": "y",
        "line": {"width": 2, "color": colour},
        "hovertemplate": f"%{{y:.0f}} % within %{{x:.3~g}} {unit}<extra></extra>",
    }
    within = {percent: x[round(percent / 100 * (len(x) - 1))] for percent in SHOWN}
    said = ", ".join(f"{percent} % within {figure(value)} {unit}" for percent, value in within.items())
    return Panel(
        data,
        [
            {"type": "line", "xref": axis, "x0": value, "x1": value, "y0": 0, "y1": percent} | thin()
            for percent, value in within.items()
        ],
        scale(f"{title}, {unit}") | {"domain": domain, "range": [0, x[last] * 1.08], "anchor": "y"},
        label_at(domain[0], 1.0, f"<b>{title}</b>", "left") | {"xref": "paper", "yref": "paper", "yanchor": "bottom"},
        f"{title.capitalize()}: {said}.",
    )


def _in_unit(ms: list[float]) -> tuple[list[float], str]:
    """Seconds where most requests take more than one."""
    if ms[len(ms) // 2] >= SECOND_MS:
        return [value / SECOND_MS for value in ms], "s"
    return ms, "ms"


def over_time(seen: Seen) -> tuple[Chart, str]:
    """Requests that run and that wait, and the share of the KV pool in use, over the simulated time."""
    assert seen.timeline is not None
    time_s, waiting, running, used = (column.tolist() for column in seen.timeline)
    share = [100 * value for value in used]
    data = [
        _held(time_s, running, "running", BLUE),
        _held(time_s, waiting, "waiting", ORANGE),
        _held(time_s, share, "KV pool", GREY)
        | {"yaxis": "y2", "showlegend": False, "hovertemplate": "KV pool %{y:.0f} %<extra></extra>"},
    ]
    titles = (("requests", 1.0), ("KV pool in use, %", 0.34))
    notes = [
        label_at(0, at, f"<b>{text}</b>", "left") | {"xref": "paper", "yref": "paper", "yanchor": "bottom"}
        for text, at in titles
    ]
    layout = frame(height=340, margin={"l": 48, "r": 12, "t": 24, "b": 44}) | {
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "font": FONT},
        "hovermode": "x unified",
        "xaxis": scale("simulated time, s") | {"anchor": "y2"},
        "yaxis": scale("") | {"domain": [0.46, 1], "rangemode": "tozero", "nticks": 5},
        "yaxis2": scale("") | {"domain": [0, 0.34], "range": [0, 105], "tickvals": [0, 50, 100]},
        "annotations": notes,
    }
    words = (
        f"In {figure(time_s[-1] - time_s[0])} s at most {max(running):,.0f} requests ran and {max(waiting):,.0f} "
        f"waited; the KV pool was {max(share):.0f} % full at most."
    )
    return {"data": data, "layout": layout}, words


def _held(time_s: list[float], values: list[float], name: str, colour: str) -> Chart:
    """A line of what holds until it changes."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": time_s,
        "y": values,
        "yaxis": "y",
        "name": name,
        "line": {"width": 1.5, "color": colour, "shape": "hv"},
        "hovertemplate": f"%{{y:,.0f}} {name}<extra></extra>",
    }
