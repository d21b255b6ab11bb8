"""Charts of a simulation: how times are spread over requests, and what the engines hold over time."""

from __future__ import annotations

from typing import Any

from drawing import BLUE, FONT, GREY, ORANGE, Chart, frame, label_at, scale, thin
from planner.explain import figure
from simulating import Seen

SHOWN = (50, 90, 99)  # percentiles that are marked
MOST = 99.5  # percent of requests up to which the axis reaches: the last ones would squeeze the rest
SECOND_MS = 1e3


def spread(seen: Seen) -> tuple[Chart, str]:
    """Share of requests that wait at most so long for the first token, and between tokens."""
    panels = [
        panel for panel in (("ttft", "first token", ORANGE), ("tpot", "between tokens", BLUE)) if seen.spreads[panel[0]]
    ]
    data: list[Chart] = []
    notes: list[Chart] = []
    shapes: list[Chart] = []
    axes: dict[str, Any] = {}
    words = []
    for at, (name, title, colour) in enumerate(panels):
        x, unit = _in_unit(seen.spreads[name])
        axis, suffix = f"x{at + 1 if at else ''}", f"xaxis{at + 1 if at else ''}"
        left = at / len(panels) + (0.04 if at else 0)
        domain = [left, (at + 1) / len(panels) - (0.04 if at + 1 < len(panels) else 0)]
        last = max(i for i, share in enumerate(seen.shares) if share <= MOST)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": seen.shares,
                "xaxis": axis,
                "yaxis": "y",
                "line": {"width": 2, "color": colour},
                "hovertemplate": f"%{{y:.0f}} % within %{{x:.3~g}} {unit}<extra></extra>",
            }
        )
        within: list[str] = []
        for percent in SHOWN:
            value = x[round(percent / 100 * (len(x) - 1))]
            shapes.append({"type": "line", "xref": axis, "x0": value, "x1": value, "y0": 0, "y1": percent} | thin())
            within.append(f"{percent} % within {figure(value)} {unit}")
        words.append(f"{title.capitalize()}: {', '.join(within)}.")
        axes[suffix] = scale(f"{title}, {unit}") | {"domain": domain, "range": [0, x[last] * 1.08], "anchor": "y"}
        notes.append(
            label_at(0.0, 1.0, f"<b>{title}</b>", "left")
            | {"xref": "paper", "yref": "paper", "x": domain[0], "yanchor": "bottom"}
        )
    layout = (
        frame(height=300, margin={"l": 44, "r": 12, "t": 24, "b": 48})
        | axes
        | {
            "showlegend": False,
            "yaxis": scale("% of requests") | {"range": [0, 102], "tickvals": [0, *SHOWN]},
            "shapes": shapes,
            "annotations": notes,
        }
    )
    return {"data": data, "layout": layout}, " ".join(words)


def _in_unit(ms: list[float]) -> tuple[list[float], str]:
    """Seconds where most requests take more than one."""
    if ms[len(ms) // 2] >= SECOND_MS:
        return [value / SECOND_MS for value in ms], "s"
    return ms, "ms"


def over_time(seen: Seen) -> tuple[Chart, str]:
    """Requests that run and that wait, and the share of the KV pool in use, over the simulated time."""
    assert seen.timeline is not None
    time_s, waiting, running, used = (column.tolist() for column in seen.timeline)
    lines = (("running", running, "y", BLUE), ("waiting", waiting, "y", ORANGE))
    data: list[Chart] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": time_s,
            "y": values,
            "yaxis": axis,
            "name": name,
            "line": {"width": 1.5, "color": colour, "shape": "hv"},
            "hovertemplate": f"%{{y:,.0f}} {name}<extra></extra>",
        }
        for name, values, axis, colour in lines
    ]
    share = [100 * value for value in used]
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": time_s,
            "y": share,
            "yaxis": "y2",
            "name": "KV pool",
            "showlegend": False,
            "line": {"width": 1.5, "color": GREY, "shape": "hv"},
            "hovertemplate": "KV pool %{y:.0f} %<extra></extra>",
        }
    )
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
