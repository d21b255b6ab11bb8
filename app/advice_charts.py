"""Charts of advice: which format leads at which load, the roofline, and quality against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drawing import (
    BLUE,
    GREY,
    LINE,
    ORANGE,
    PURPLE,
    RED,
    Chart,
    faint,
    frame,
    label_at,
    label_over,
    log_place,
    scale,
    thin,
)
from planner.estimate.columns import EstimateRow
from planner.explain import format_name
from planner.explain.attained import TERA, Roofline, roofline_words
from planner.explain.crossover import Crossover, Series, crossover_words
from planner.search.words import THOUSAND

LINES = (BLUE, ORANGE, "#009e73", PURPLE, RED, GREY)  # one for each format, in the order they are compared
LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
WIDE = 300.0  # factor from which an axis marks tens alone
LEAST_PX, MOST_PX = 9, 26  # of a point of the Pareto plot: the slower, the larger


def crossover_lines(crossing: Crossover, now: float | None) -> tuple[Chart, str]:
    """Tokens/s of the deployment in each format against requests at once; every change of the lead is marked."""
    data: list[Chart] = []
    notes: list[Chart] = []
    leading = {name for change in crossing.changes for name in (change.before, change.after)}
    for one, colour in zip(crossing.series, LINES, strict=False):
        data += _series(one, colour, one.weight_format in leading)
    ends = sorted(zip(crossing.series, LINES, strict=False), key=lambda pair: pair[0].speed[-1])
    top = max((max(one.high) for one in crossing.series), default=1.0)
    last = -1.0
    for one, colour in ends:  # labels at the lines' ends, kept apart
        y = max(one.speed[-1], last + 0.055 * top)
        last = y
        short = format_name(one.weight_format).partition(",")[0]
        name = label_at(log_place(one.concurrency[-1]), y, f" {short}", "left")
        notes.append(name | {"font": name["font"] | {"color": colour}})
    shapes = []
    for change in crossing.changes:
        at = change.concurrency
        shapes.append({"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"} | thin())
        text = f"{format_name(change.after)} leads from {at:,.0f}"
        notes.append(label_over(log_place(at), text, "center"))
    x = [count for one in crossing.series for count in one.concurrency]
    if now:
        mark = {"color": LINE, "width": 3}
        shapes.append({"type": "line", "x0": now, "x1": now, "y0": 0, "y1": 0.04, "yref": "paper", "line": mark})
        notes.append(label_over(log_place(now), "this load", "center", 0.04))
    layout = frame(height=380, margin={"l": 60, "r": 110, "t": 28, "b": 44}) | {
        "showlegend": False,
        "hovermode": "x unified",
        "xaxis": scale("requests at once")
        | ({"range": [log_place(min(x)), log_place(max(x))]} if x else {})
        | {"type": "log", "tickvals": [n for n in LOADS if x and min(x) <= n <= max(x)], "tickformat": ",d"},
        "yaxis": scale("tokens/s, whole deployment") | {"rangemode": "tozero", "nticks": 6},
        "shapes": shapes,
        "annotations": notes,
    }
    return {"data": data, "layout": layout}, crossover_words(crossing)


def _series(one: Series, colour: str, leads: bool) -> list[Chart]:
    """A format's line; its interval only where it takes part in a change of the lead."""
    x = list(one.concurrency)
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*one.high, *reversed(one.low)],
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": faint(colour),
        "hoverinfo": "skip",
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": format_name(one.weight_format),
        "x": x,
        "y": list(one.speed),
        "line": {"width": 2, "color": colour},
        "customdata": list(zip(one.low, one.high, strict=True)),
        "hovertemplate": "%{y:,.0f} (%{customdata[0]:,.0f}–%{customdata[1]:,.0f})",
    }
    return [band, line] if leads else [line]


def roofline_chart(roofline: Roofline, row: EstimateRow) -> tuple[Chart, str]:
    """Attained FLOP/s of prefill and decode against their intensity, under the GPU's two limits."""
    limits, ridge = roofline.limits, roofline.ridge_flops_per_byte
    left = min([point.flops_per_byte for point in roofline.points] + [ridge]) / 4
    right = max([point.flops_per_byte for point in roofline.points] + [ridge]) * 4
    roof = {
        "type": "scatter",
        "mode": "lines",
        "x": [left, ridge, right],
        "y": [left * limits.bytes_per_s / TERA, limits.flops_per_s / TERA, limits.flops_per_s / TERA],
        "line": {"color": GREY, "width": 2},
        "hoverinfo": "skip",
    }
    points = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [point.flops_per_byte for point in roofline.points],
        "y": [point.flops_per_s / TERA for point in roofline.points],
        "text": [point.name for point in roofline.points],
        "textposition": "bottom right",
        "marker": {"size": 12, "color": [BLUE if point.bound == "compute" else ORANGE for point in roofline.points]},
        "hovertemplate": "%{text}: %{x:,.3~g} FLOPs/byte, %{y:,.4~g} TFLOP/s<extra></extra>",
    }
    slope = math.sqrt(left * ridge)
    bandwidth, rate = limits.bytes_per_s / TERA, limits.flops_per_s / TERA
    memory = label_at(log_place(slope), log_place(slope * bandwidth), f"memory, {bandwidth:.2f} TB/s ", "right")
    arithmetic = label_at(log_place(right), log_place(rate), f"{limits.math.upper()}, {rate:,.0f} TFLOP/s", "right")
    layout = frame(height=380, margin={"l": 60, "r": 12, "t": 24, "b": 44}) | {
        "showlegend": False,
        "xaxis": scale("FLOPs for each byte moved") | {"type": "log", "dtick": 1},
        "yaxis": scale("TFLOP/s of one GPU") | {"type": "log", "dtick": 1},
        "annotations": [note | {"yanchor": "bottom", "yshift": 6} for note in (memory, arithmetic)],
    }
    return {"data": [roof, points], "layout": layout}, roofline_words(roofline, row)


def pareto_points(rows: Sequence[EstimateRow], labels: Sequence[str]) -> tuple[Chart, str]:
    """Expected quality against cost, a point for each row; those that another beats in everything are faint."""
    front = [bool(row["pareto"]) for row in rows]
    times = [row["e2e_ms"] or 0.0 for row in rows]
    low, high = min(times, default=0.0), max(times, default=0.0)
    sizes = [LEAST_PX + (MOST_PX - LEAST_PX) * ((t - low) / (high - low) if high > low else 0.0) for t in times]
    prices = [row["usd_per_request"] * THOUSAND for row in rows]
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": prices,
        "y": [row["quality_score"] for row in rows],
        "text": list(labels),
        "customdata": [[row["rank"], time / 1e3] for row, time in zip(rows, times, strict=True)],
        "marker": {
            "size": sizes,
            "color": [BLUE if on else GREY for on in front],
            "opacity": [0.9 if on else 0.25 for on in front],
            "line": {"width": [0 if row["rank"] != 1 else 3 for row in rows], "color": ORANGE},
        },
        "hovertemplate": "%{customdata[0]}. %{text}<br>%{x:.3~g} USD per 1,000 requests, "
        "%{customdata[1]:.3~g} s a request<extra></extra>",
    }
    layout = frame(height=380, margin={"l": 20, "r": 12, "t": 12, "b": 44}) | {
        "showlegend": False,
        "xaxis": scale("USD per 1,000 requests") | {"type": "log", "tickvals": _ticks(prices), "tickformat": "~g"},
        "yaxis": scale("expected quality, higher is better") | {"showticklabels": False},
    }
    best = next((label for row, label in zip(rows, labels, strict=True) if row["rank"] == 1), "")
    words = f"Nothing beats {sum(front)} of {len(rows)} in quality, cost and time at once. First: {best}."
    return {"data": [data], "layout": layout}, words


def _ticks(values: Sequence[float]) -> list[float]:
    """Marks of a logarithmic axis of money: 1, 2, 5 of every ten, or tens alone where it spans many; both ends where
    hardly a mark lies between them."""
    low, high = min(values), max(values)
    marks = (1, 2, 5) if high < WIDE * low else (1,)
    found = [mark * 10.0**power for power in range(-5, 5) for mark in marks]
    if sum(low <= mark <= high for mark in found) < 2:
        return sorted({float(f"{low:.3g}"), float(f"{high:.3g}")})
    return [mark for mark in found if low / 2 <= mark <= high * 2]
