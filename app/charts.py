"""Curves over load and length as plotly dictionaries: quiet, coloured by meaning, each with a sentence of conclusion.

Colours are safe for the colour-blind and legible on light and dark; text, axes and ground come from the theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drawing import (
    BLUE,
    ORANGE,
    Chart,
    faint,
    frame,
    label_at,
    label_over,
    log_place,
    point,
    scale,
    thin,
)
from planner.estimate.columns import EstimateRow
from planner.explain import duration, figure

CLOSE = 1.7  # a curve within this factor above a line runs through a name that stands on the line


def load_speed(curve: Sequence[EstimateRow], row: EstimateRow) -> tuple[Chart, str]:
    """Tokens/s for each user and time to first token against requests at once, 80 % intervals as bands."""
    rows = [item for item in curve if item["ttft_ms"] is not None]
    x = [item["concurrency"] for item in rows]
    generates = bool(row["output_tokens"])
    top = "output_tokens_per_s_per_request" if generates else "requests_per_s"
    data = _band(rows, x, row, Axis("y", top, 1.0, BLUE, ""))
    data += _band(rows, x, row, Axis("y2", "ttft_ms", 1e3, ORANGE, " s"))
    shapes, notes = _load_lines(row, x, rows)
    titles = (
        ("tokens/s for each user" if generates else "requests/s", 1.0),
        ("first token, s" if generates else "wait, s", 0.45),
    )
    place, side = (1, "right") if _ends_early(row, x) else (0, "left")
    notes += [
        label_at(place, at, f"<b>{text}</b>", side) | {"xref": "paper", "yref": "paper", "yanchor": "bottom"}
        for text, at in titles
    ]
    layout = frame(height=380, margin={"l": 44, "r": 12, "t": 24, "b": 44}) | {
        "showlegend": False,
        "hovermode": "x unified",
        "xaxis": scale("requests at once") | {"type": "log", "anchor": "y2", "tickvals": _ticks(x), "tickformat": ",d"},
        "yaxis": scale("") | {"domain": [0.57, 1], "rangemode": "tozero", "nticks": 5},
        "yaxis2": scale("")
        | {"domain": [0, 0.45], "type": "log", "anchor": "x", "tickvals": _decades(rows), "tickformat": "~g"},
        "shapes": shapes,
        "annotations": notes,
    }
    return {"data": data, "layout": layout}, _load_words(rows, row, top)


def full_words(row: EstimateRow) -> str:
    """What the room for requests ends at: the cache, or the engine's own limit."""
    limit = (row["max_num_seqs"] or 0) * (row["attention_dp"] or 1) * (row["dp"] or 1) * (row["copies_per_gpu"] or 1)
    return "Slots full" if limit and row["max_concurrency"] >= limit else "KV full"


def _room(row: EstimateRow) -> str:
    """Requests for which there is room, as exact as the verdict says it."""
    return figure(row["max_concurrency"], row["max_concurrency_low"], row["max_concurrency_high"])


def _ends_early(row: EstimateRow, x: Sequence[int]) -> bool:
    """Whether the room ends in the left half of the chart, where the names of its panels would lie over the label."""
    return bool(x and row["max_concurrency"] and row["max_concurrency"] ** 2 < x[0] * x[-1])


def _load_words(rows: Sequence[EstimateRow], row: EstimateRow, top: str) -> str:
    if not rows:
        return "No speed: the deployment does not start."
    first, last = rows[0], rows[-1]
    start, end = (figure(item[top], item[f"{top}_low"], item[f"{top}_high"]) for item in (first, last))
    what = "the speed for each user goes" if row["output_tokens"] else "the rate goes"
    unit, first_seen = ("tokens/s", "the first token") if row["output_tokens"] else ("requests/s", "the wait")
    room = f" {full_words(row)} at {_room(row)} at once." if row["max_concurrency"] else ""
    now = in_flight(row)
    load = "" if row["concurrency"] or not now else f" This load keeps {figure(now)} in flight on average: the points."
    waits, longest = (duration(item, "ttft_ms")[0] for item in (first, last))
    return (
        f"From {first['concurrency']:,} to {last['concurrency']:,} requests at once {what} from {start} to {end} "
        f"{unit} and {first_seen} from {waits} to {longest}.{load}{room}"
    )


class Axis(NamedTuple):
    """A panel's figure: its column, what divides it for the screen, its colour and its unit."""

    name: str
    column: str
    scale: float
    colour: str
    unit: str


def in_flight(row: EstimateRow) -> float | None:
    """Requests at once: as asked for; of users or a rate those in flight on average, rate x time (Little's law)."""
    if not (row["users"] or row["request_rate_per_s"]):
        return row["concurrency"]  # type: ignore[no-any-return]
    return row["requests_per_s"] * row["e2e_ms"] / 1e3 if row["requests_per_s"] and row["e2e_ms"] else None


def _band(rows: Sequence[EstimateRow], x: list[int], row: EstimateRow, axis: Axis) -> list[Chart]:
    """The interval as one surface, the figure as a line, and on it the load that is asked for."""
    low, mid, high = (
        [None if row[f"{axis.column}{end}"] is None else row[f"{axis.column}{end}"] / axis.scale for row in rows]
        for end in ("_low", "", "_high")
    )
    base = {"type": "scatter", "yaxis": axis.name}
    surface = {
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": faint(axis.colour),
        "hoverinfo": "skip",
    }
    line = {
        "mode": "lines",
        "x": x,
        "y": mid,
        "line": {"width": 2, "color": axis.colour},
        "customdata": list(zip(low, high, strict=True)),
        "hovertemplate": f"%{{y:.3~g}}{axis.unit} (%{{customdata[0]:.3~g}}–%{{customdata[1]:.3~g}})<extra></extra>",
    }
    now, here = in_flight(row), row[axis.column]
    mark = [point(now, here / axis.scale, axis.colour, axis.name)] if now and here else []
    return [base | surface, base | line, *mark]


def _load_lines(row: EstimateRow, x: list[int], rows: Sequence[EstimateRow]) -> tuple[list[Chart], list[Chart]]:
    """KV full as a vertical line, objectives as horizontal ones, with their names."""
    shapes, notes = [], []
    room = row["max_concurrency"]
    if room and x and x[0] <= room <= x[-1]:
        shapes.append({"type": "line", "x0": room, "x1": room, "y0": 0, "y1": 1, "yref": "paper"} | thin())
        side = "left" if _ends_early(row, x) else "right"
        notes.append(label_over(log_place(room), f"{full_words(row)}: {_room(row)}", side))
    first = rows[0] if rows else {}
    for axis, limit, begins in (
        ("y", _per_s(row["tpot_slo_ms"]), _per_s(first.get("tpot_ms"))),
        ("y2", (row["ttft_slo_ms"] or 0) / 1e3, (first.get("ttft_ms") or 0) / 1e3),
    ):
        if limit:
            line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": limit, "y1": limit}
            shapes.append(line | thin())
            note = label_at(0, log_place(limit) if axis == "y2" else limit, f"objective {limit:.3g}", "left")
            notes.append(note | {"xref": "paper", "yref": axis, "yanchor": _beside(begins, limit)})
    return shapes, notes


def _per_s(ms: float | None) -> float:
    """Tokens per second of one user; 0 for none."""
    return 1e3 / ms if ms else 0.0


def _beside(begins: float, limit: float) -> str:
    """Where the name of a line stands: under it where a curve begins closely above."""
    return "top" if limit < begins < CLOSE * limit else "bottom"


def kv_context(rows: Sequence[EstimateRow], row: EstimateRow) -> tuple[Chart, str]:
    """KV cache of the load against the prompt's length; where it crosses the pool is the longest that fits."""
    kept = [item for item in rows if item["error"] is None and item["kv_needed_gib"] is not None]
    x, y = [item["input_tokens"] for item in kept], [item["kv_needed_gib"] for item in kept]
    pool = row["kv_pool_gib"] or 0.0
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "line": {"color": ORANGE, "width": 2},
            "hovertemplate": "%{x:,} tokens: %{y:.2f} GiB<extra></extra>",
        },
        point(row["input_tokens"], row["kv_needed_gib"], ORANGE, "y"),
    ]
    shapes, notes = [], []
    if pool:
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": pool, "y1": pool} | thin())
        name = label_at(0, log_place(pool), f"pool {pool:.1f} GiB", "left")
        notes.append(name | {"xref": "paper", "yanchor": "bottom"})
    most = row["max_context_tokens"]
    crossing = max((most or 0) - row["output_tokens"], 0)
    if crossing and x and x[0] <= crossing <= x[-1]:
        shapes.append({"type": "line", "x0": crossing, "x1": crossing, "y0": 0, "y1": 1, "yref": "paper"} | thin())
        notes.append(label_over(log_place(crossing), f"longest prompt {crossing:,}", "left", 0.02))
    load = f"{row['concurrency']:,} at once" if row["concurrency"] else "this load"
    title = f"<b>KV cache on one GPU, GiB, {load}</b>"
    notes.append(label_at(0, 1.0, title, "left") | {"xref": "paper", "yref": "paper", "yanchor": "bottom"})
    ticks = [n for n in (256, 1024, 4096, 16384, 65536, 262144, 1048576) if x and x[0] <= n <= x[-1]]
    layout = frame(height=320, margin={"l": 60, "r": 12, "t": 24, "b": 44}) | {
        "showlegend": False,
        "xaxis": scale("tokens of the prompt") | {"type": "log", "tickvals": ticks, "tickformat": ",d"},
        "yaxis": scale("") | {"type": "log", "dtick": 1},
        "shapes": shapes,
        "annotations": notes,
    }
    words = f"The load needs {row['kv_needed_gib'] or 0:.1f} GiB of KV cache on one GPU; the pool holds {pool:.1f} GiB."
    return {"data": data, "layout": layout}, words + (
        f" Prompts up to {crossing:,} tokens fit at this load." if crossing else ""
    )


def _decades(rows: Sequence[EstimateRow]) -> list[float]:
    """Marks of the waiting time, s: tens, and between them where few tens are covered."""
    seconds = [item[name] / 1e3 for item in rows for name in ("ttft_ms_low", "ttft_ms_high") if item[name]]
    if not seconds:
        return []
    marks = (1,) if max(seconds) > 300 * min(seconds) else (1, 3) if max(seconds) > 10 * min(seconds) else (1, 2, 5)
    found = [mark * 10.0**power for power in range(-4, 7) for mark in marks]
    return [value for value in found if 0.7 * min(seconds) <= value <= 1.4 * max(seconds)]


def _ticks(x: Sequence[int]) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if x and x[0] <= n <= x[-1]]
