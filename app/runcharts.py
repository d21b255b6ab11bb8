"""Charts of a calibration: measured points solid, fitted curves as lines, the datasheet as thin dotted ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drawing import BLUE, FONT, GREY, ORANGE, PURPLE, RED, Chart, frame, label_over, log_place, scale, thin
from planner.explain import figure
from planner.explain.kernels import READS, Curve, Lead, Reading

GREEN, SKY = "#009e73", "#56b4e9"
COLOURS = {
    "gemm-16": BLUE, "gemm-fp8": ORANGE, "gemm-int8": GREEN, "wo-4": PURPLE, "gemm-fp4": RED, "wo-nv4": RED,
    "wo-8": SKY, "read": SKY, "copy": ORANGE, "elementwise": PURPLE,
}  # fmt: skip
TERA, GIGA = 1e12, 1e9
STREAMS = ("read", "copy", "elementwise")
MOST_FLOPS_A_BYTE = 1.1  # of a product that only reads: one token in 16 bit
SIZES = [2.0**e for e in (16, 20, 24, 28, 32)]
SIZE_WORDS = ["64 KiB", "1 MiB", "16 MiB", "256 MiB", "4 GiB"]
BATCHES = [1, 4, 16, 64, 256, 1024, 4096, 16384]


def colour_of(family: str) -> str:
    """The colour of a kernel family, the same in every chart."""
    return COLOURS.get(family, GREY)


def _line(curve: Curve, x: Any, y: Any, unit: str) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": curve.name,
        "x": list(map(float, x)),
        "y": list(map(float, y)),
        "line": {"width": 2, "color": colour_of(curve.family)},
        "hovertemplate": f"{curve.name}: %{{y:.4~g}} {unit}<extra></extra>",
    }


def _dots(points: Sequence[Reading], family: str, y: Sequence[float], unit: str) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_intensity(point) if point.flops else point.bytes for point in points],
        "y": list(y),
        "marker": {"size": 5, "color": colour_of(family), "opacity": 0.7},
        "text": [f"{point.kernel} {point.label}" for point in points],
        "showlegend": False,
        "hovertemplate": f"%{{text}}: %{{y:.4~g}} {unit}<extra></extra>",
    }


def _intensity(point: Reading) -> float:
    return point.flops / point.bytes


LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": FONT}


def roofline(curves: Sequence[Curve], points: Sequence[Reading], bandwidth: float, peak: float) -> tuple[Chart, str]:
    """FLOP/s against FLOPs a byte: fitted products as lines, measured ones as points, the datasheet's roof dotted."""
    families = {curve.family for curve in curves}
    data = [_line(curve, curve.flops / curve.bytes, curve.flops / curve.seconds / TERA, "TFLOP/s") for curve in curves]
    for family in sorted(families):
        own = [point for point in points if point.family == family and point.flops]
        if own:
            data.append(_dots(own, family, [point.flops / point.seconds / TERA for point in own], "TFLOP/s"))
    x = np.array([0.5, peak / bandwidth, 20_000.0])
    roof = np.minimum(x * bandwidth, peak) / TERA
    line = {"type": "scatter", "mode": "lines", "x": list(x), "y": list(roof), "name": "datasheet, 16 bit"}
    data.append(line | {"hoverinfo": "skip"} | thin())
    best = [float(np.max(curve.flops / curve.seconds)) / TERA for curve in curves]
    layout = frame(height=420, margin={"l": 60, "r": 12, "t": 16, "b": 48}) | {
        "legend": LEGEND,
        "xaxis": scale("FLOPs for each byte moved") | {"type": "log", "dtick": 1},
        "yaxis": scale("TFLOP/s") | {"type": "log", "dtick": 1},
    }
    tops = "; ".join(f"{curve.name} reaches {figure(top)} TFLOP/s" for curve, top in zip(curves, best, strict=True))
    shown = sum(bool(point.flops and point.family in families) for point in points)
    measured = f"{shown:,} measured points." if shown else "No measured points: fitted or assumed curves only."
    return {"data": data, "layout": layout}, f"{tops}. {measured}"


def bandwidth(curves: Sequence[Curve], points: Sequence[Reading], peak: float) -> tuple[Chart, str]:
    """Bytes/s against the bytes that a kernel moves: reads, copies, elementwise kernels, weights for one token."""
    data, parts = [_line(curve, curve.bytes, curve.bytes / curve.seconds / GIGA, "GB/s") for curve in curves], []
    cached = 0  # points whose results stay in the cache, which takes them faster than memory
    for family in (*STREAMS, READS):
        own = [point for point in points if point.family == family and point.flops <= MOST_FLOPS_A_BYTE * point.bytes]
        if own:
            rates = [point.bytes / point.seconds / GIGA for point in own]
            name = "weights" if family == READS else family
            dots = _dots(own, family, rates, "GB/s") | {"x": [point.bytes for point in own]}
            data.append(dots | {"name": f"{name}, measured", "showlegend": True})
            inside = [rate for rate in rates if rate * GIGA <= peak]
            cached += len(rates) - len(inside)
            parts.append(f"{name} up to {figure(max(inside or rates))} GB/s")
    ends = {"type": "scatter", "mode": "lines", "x": [SIZES[0], SIZES[-1]], "y": [peak / GIGA] * 2, "name": "datasheet"}
    data.append(ends | {"hoverinfo": "skip"} | thin())
    layout = frame(height=360, margin={"l": 60, "r": 12, "t": 24, "b": 48}) | {
        "legend": LEGEND,
        "xaxis": scale("bytes moved") | {"type": "log", "tickvals": SIZES, "ticktext": SIZE_WORDS},
        "yaxis": scale("GB/s") | {"rangemode": "tozero"},
    }
    tops = ", ".join(f"{curve.name} {figure(float(np.max(curve.bytes / curve.seconds)) / GIGA)}" for curve in curves)
    measured = f"measured: {', '.join(parts)}" if parts else "no measured points"
    words = f"Attained of {peak / GIGA:,.0f} GB/s by the datasheet: {tops}; {measured}."
    words += f" Above the datasheet: {cached}, whose results stay in the cache." if cached else ""
    return {"data": data, "layout": layout}, words


def crossover(curves: Sequence[Curve], lead: Sequence[Lead]) -> tuple[Chart, str]:
    """Speed of one product by format over that in 16 bit, against tokens; where the lead changes is marked."""
    base = curves[0].seconds
    data = [_line(curve, curve.tokens, base / curve.seconds, f"× {curves[0].name}") for curve in curves]
    shapes = [
        {"type": "line", "x0": item.tokens, "x1": item.tokens, "y0": 0, "y1": 1, "yref": "paper"} | thin()
        for item in lead[1:]
    ]
    notes = [
        label_over(log_place(item.tokens), f" {item.tokens:,.0f}: {item.name}", "left", 0.01 + 0.08 * (place % 2))
        for place, item in enumerate(lead[1:])
    ]
    layout = frame(height=380, margin={"l": 60, "r": 12, "t": 24, "b": 48}) | {
        "legend": LEGEND,
        "xaxis": scale("tokens in the batch") | {"type": "log", "tickvals": BATCHES, "tickformat": ",d"},
        "yaxis": scale(f"speed over {curves[0].name}") | {"rangemode": "tozero"},
        "shapes": shapes,
        "annotations": notes,
    }
    first = f"{lead[0].name} at one token"
    words = ", ".join([first, *(f"{item.name} from {item.tokens:,.0f} on" for item in lead[1:])])
    return {"data": data, "layout": layout}, f"Fastest: {words}."
