"""Charts as plotly dictionaries: quiet, coloured by meaning, each with a sentence that says its conclusion.

Colours are safe for the colour-blind and legible on light and dark; text, axes and ground come from the theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from drawing import (
    BLUE,
    FONT,
    FREE,
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
    point,
    scale,
    thin,
)
from planner.estimate.breakdown import Part
from planner.explain import duration, figure
from planner.explain.words import HOLDING, requests

Row = dict[str, Any]

SEGMENTS = (
    ("weights", "weights_gib", BLUE),
    ("KV cache", "kv_used_gib", ORANGE),
    ("KV pool, free", "kv_spare_gib", "rgba(230,159,0,0.35)"),
    ("activations", "activation_gib", PURPLE),
    ("context, libraries", "non_torch_gib", GREY),
    ("CUDA graphs", "cuda_graph_gib", "#5f656e"),
    ("held by others", "reserved_gib", "#4a4f57"),
    ("free", "free_gib", FREE),
)
TEXT_ROOM = 2.1  # axis over the longest bar, so that a figure with its interval stands beside it, on a phone too
ONE_LINE = 14  # letters of a bar's label
KINDS = {
    "gemm": ("weights × activations", BLUE),
    "moe": ("experts", "#56b4e9"),
    "attention": ("attention", ORANGE),
    "recurrent": ("recurrent state", "#009e73"),
    "elementwise": ("norms and the like", PURPLE),
    "communication": ("between GPUs", RED),
    "engine": ("engine", GREY),
}


def memory_parts(row: Row) -> list[tuple[str, float, str]]:
    """Segments of one GPU's memory, GiB, in the order of the bar; the pool is split into needed and spare."""
    pool = row["kv_pool_gib"] or 0.0
    used = min(row["kv_needed_gib"] or 0.0, pool)
    sizes = row | {"kv_used_gib": used, "kv_spare_gib": max(pool - used, 0.0)}
    return [(name, sizes[column], colour) for name, column, colour in SEGMENTS if (sizes[column] or 0) > 0.005]


def memory_bar(row: Row, dark: bool = False) -> tuple[Chart, str]:
    """One GPU's memory as a stacked bar, with its capacity and the engine's budget as lines."""
    return gpu_bar(memory_parts(row), row["device_gib"], row["budget_gib"], dark)


def gpu_bar(
    parts: Sequence[tuple[str, float, str]], device: float, budget: float, dark: bool = False, limit: str = "budget"
) -> tuple[Chart, str]:
    """Segments (name, GiB, colour) of one GPU as a stacked bar, with the card and the budget as lines."""
    total = sum(size for _, size, _ in parts)
    most = max(total, device)
    names, sizes, colours = zip(*parts, strict=True)
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": sizes,
        "y": [""] * len(parts),
        "base": [sum(sizes[:at]) for at in range(len(parts))],
        "marker": {"color": colours, "line": {"width": 0}},
        "text": [f"{name}<br>{size:.1f}" if size > 0.09 * most else f"{size:.1f}" for name, size, _ in parts],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": [_ink(colour, dark) for colour in colours], "size": 13},
        "customdata": names,
        "hovertemplate": "%{customdata}: %{x:.2f} GiB<extra></extra>",
    }
    same = abs(budget - device) < 0.01 * device
    both = "card and budget" if limit == "budget" else "card"
    lines = [_line(device, both if same else "card", 18.0, "right" if device > 0.3 * most else "left")]
    lines += [] if same else [_line(budget, limit, 2.0, "right" if budget > 0.3 * most else "left")]
    layout = frame(height=150, margin={"l": 4, "r": 8, "t": 40, "b": 38}) | {
        "barmode": "overlay",
        "uniformtext": {"minsize": 11, "mode": "hide"},
        "bargap": 0.1,
        "showlegend": False,
        "xaxis": scale("GiB of one GPU") | {"range": [0, most * 1.01]},
        "yaxis": {"visible": False, "fixedrange": True},
        "shapes": [shape for shape, _ in lines],
        "annotations": [note for _, note in lines],
    }
    spoken = ", ".join(f"{name} {size:.1f}" for name, size, _ in parts)
    verdict = f"over the card by {total - device:.1f} GiB" if total > device * 1.001 else "inside the card"
    return {
        "data": [bar],
        "layout": layout,
    }, f"Memory of one GPU in GiB: {spoken}; {device:.1f} on the card, {limit} {budget:.1f}; {verdict}."


def _line(x: float, label: str, up: float, side: str) -> tuple[Chart, Chart]:
    """A vertical line and its label, `up` pixels above the bar."""
    shape = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": LINE, "width": 2}}
    note = label_at(x, 1.0, f"{label} {x:.1f}", side) | {"yref": "paper", "yanchor": "bottom", "yshift": up}
    return shape, note


def _ink(colour: str, dark: bool) -> str:
    """Text on a segment: on transparent ones the theme's, else dark on light fills and white on dark ones."""
    if colour.startswith("rgba"):
        return "#f0f0f0" if dark else "#1c2126"
    return "#111" if colour in (ORANGE, GREY) else "#fff"


def load_speed(curve: Sequence[Row], row: Row) -> tuple[Chart, str]:
    """Tokens/s for each user and time to first token against requests at once, 80 % intervals as bands."""
    rows = [item for item in curve if item["ttft_ms"] is not None]
    x = [item["concurrency"] for item in rows]
    generates = bool(row["output_tokens"])
    top = "output_tokens_per_s_per_request" if generates else "requests_per_s"
    data = _band(rows, x, row, Axis("y", top, 1.0, BLUE, ""))
    data += _band(rows, x, row, Axis("y2", "ttft_ms", 1e3, ORANGE, " s"))
    shapes, notes = _load_lines(row, x)
    titles = ("tokens/s for each user" if generates else "requests/s", 1.0), ("first token, s", 0.45)
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


def full_words(row: Row) -> str:
    """What the room for requests ends at: the cache, or the engine's own limit."""
    limit = (row["max_num_seqs"] or 0) * (row["attention_dp"] or 1) * (row["dp"] or 1) * (row["copies_per_gpu"] or 1)
    return "Most sequences" if limit and row["max_concurrency"] >= limit else "KV full"


def _ends_early(row: Row, x: Sequence[int]) -> bool:
    """Whether the room ends in the left half of the chart, where the names of its panels would lie over the label."""
    return bool(x and row["max_concurrency"] and row["max_concurrency"] ** 2 < x[0] * x[-1])


def _load_words(rows: Sequence[Row], row: Row, top: str) -> str:
    if not rows:
        return "No speed: the deployment does not start."
    first, last = rows[0], rows[-1]
    start, end = (figure(item[top], item[f"{top}_low"], item[f"{top}_high"]) for item in (first, last))
    what = "the speed for each user goes" if row["output_tokens"] else "the rate goes"
    unit = "tokens/s" if row["output_tokens"] else "requests/s"
    room = f" {full_words(row)} at {requests(row['max_concurrency'])}." if row["max_concurrency"] else ""
    now = in_flight(row)
    load = "" if row["concurrency"] or not now else f" This load keeps {figure(now)} in flight on average: the points."
    waits, longest = (duration(item, "ttft_ms")[0] for item in (first, last))
    return (
        f"From {first['concurrency']:,} to {last['concurrency']:,} requests at once {what} from {start} to {end} "
        f"{unit} and the first token from {waits} to {longest}.{load}{room}"
    )


class Axis(NamedTuple):
    """A panel's figure: its column, what divides it for the screen, its colour and its unit."""

    name: str
    column: str
    scale: float
    colour: str
    unit: str


def in_flight(row: Row) -> float | None:
    """Requests at once: as asked for; of users or a rate those in flight on average, rate x time (Little's law)."""
    if not (row["users"] or row["request_rate_per_s"]):
        return row["concurrency"]  # type: ignore[no-any-return]
    return row["requests_per_s"] * row["e2e_ms"] / 1e3 if row["requests_per_s"] and row["e2e_ms"] else None


def _band(rows: Sequence[Row], x: list[int], row: Row, axis: Axis) -> list[Chart]:
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


def _load_lines(row: Row, x: list[int]) -> tuple[list[Chart], list[Chart]]:
    """KV full as a vertical line, objectives as horizontal ones."""
    shapes, notes = [], []
    room = row["max_concurrency"]
    if room and x and x[0] <= room <= x[-1]:
        shapes.append({"type": "line", "x0": room, "x1": room, "y0": 0, "y1": 1, "yref": "paper"} | thin())
        side = "left" if _ends_early(row, x) else "right"
        notes.append(label_over(log_place(room), f"{full_words(row)}: {room:,}", side))
    for name, axis, value, label in (
        ("tpot_slo_ms", "y", 1e3 / row["tpot_slo_ms"] if row["tpot_slo_ms"] else 0, "objective"),
        ("ttft_slo_ms", "y2", (row["ttft_slo_ms"] or 0) / 1e3, "objective"),
    ):
        if row[name]:
            shapes.append(
                {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": value, "y1": value} | thin()
            )
            at = log_place(value) if axis == "y2" else value
            notes.append(
                label_at(0, at, f"{label} {value:.3g}", "left") | {"xref": "paper", "yref": axis, "yanchor": "bottom"}
            )
    return shapes, notes


def kv_context(rows: Sequence[Row], row: Row) -> tuple[Chart, str]:
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


def step_bars(parts: Sequence[Part], limit: int = 9) -> tuple[Chart, str]:
    """Milliseconds of one mean step by operation, longest first, with what bounds each."""
    shown = list(parts[:limit])
    rest = sum(part.seconds for part in parts[limit:])
    total = sum(part.seconds for part in parts)
    labels = [_operation(part.name) for part in shown] + (["everything else"] if rest else [])
    values = [part.seconds * 1e3 for part in shown] + ([rest * 1e3] if rest else [])
    colours = [KINDS.get(part.kind, ("", GREY))[1] for part in shown] + ([GREY] if rest else [])
    bounds = [STEP_WORDS[part.bound] for part in shown] + ([""] if rest else [])
    texts = [
        f"{value:.2f} ms · {bound}" if bound else f"{value:.2f} ms" for value, bound in zip(values, bounds, strict=True)
    ]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": labels,
            "marker": {"color": colours},
            "text": texts,
            "textposition": "outside",
            "textfont": FONT,
            "cliponaxis": False,
            "hovertemplate": "%{y}: %{x:.3f} ms<extra></extra>",
        }
    ]
    layout = frame(height=60 + 30 * len(values), margin={"l": 8, "r": 12, "t": 8, "b": 40}) | {
        "showlegend": False,
        "xaxis": scale("ms of one mean step") | {"range": [0, max(values, default=1) * TEXT_ROOM]},
        "yaxis": {"autorange": "reversed", "automargin": True, "fixedrange": True, "tickfont": FONT},
    }
    first = f"{labels[0]} takes {values[0] / sum(values):.0%}" if shown else "nothing runs"
    return {
        "data": data,
        "layout": layout,
    }, f"One mean step lasts {total * 1e3:.1f} ms; {first}, bound by {bounds[0] if bounds else 'nothing'}."


STEP_WORDS = {"memory": "memory", "compute": "arithmetic", "network": "the link", "overhead": "starting it"}


def _operation(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def _in_two(label: str) -> str:
    """A long label on two lines, so that on a phone the bars and their figures have room."""
    if len(label) <= ONE_LINE:
        return label
    blanks = [at for at, letter in enumerate(label) if letter == " "]
    at = min(blanks, key=lambda place: abs(2 * place - len(label)), default=0)
    return f"{label[:at]}<br>{label[at + 1 :]}" if at else label


def grouped_bars(
    labels: Sequence[str], values: Sequence[float | None], texts: Sequence[str], unit: str, colours: Sequence[str]
) -> Chart:
    """One bar for each scenario, its text written at its end."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [value or 0 for value in values],
            "y": [_in_two(label) for label in labels],
            "marker": {"color": list(colours)},
            "text": list(texts),
            "textposition": "outside",
            "textfont": FONT,
            "cliponaxis": False,
            "hovertemplate": "%{y}: %{x:,.4~g}<extra></extra>",
        }
    ]
    most = max((value or 0 for value in values), default=1) or 1
    layout = frame(height=40 + 34 * len(labels), margin={"l": 8, "r": 8, "t": 8, "b": 28}) | {
        "showlegend": False,
        "xaxis": scale(unit) | {"range": [0, TEXT_ROOM * most], "showticklabels": False, "ticks": ""},
        "yaxis": {"autorange": "reversed", "automargin": True, "fixedrange": True, "tickfont": FONT},
    }
    return {"data": data, "layout": layout}


def _decades(rows: Sequence[Row]) -> list[float]:
    """Marks of the waiting time, s: tens, and between them where few tens are covered."""
    seconds = [item[name] / 1e3 for item in rows for name in ("ttft_ms_low", "ttft_ms_high") if item[name]]
    if not seconds:
        return []
    marks = (1,) if max(seconds) > 300 * min(seconds) else (1, 3) if max(seconds) > 10 * min(seconds) else (1, 2, 5)
    found = [mark * 10.0**power for power in range(-4, 7) for mark in marks]
    return [value for value in found if 0.7 * min(seconds) <= value <= 1.4 * max(seconds)]


def _ticks(x: Sequence[int]) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if x and x[0] <= n <= x[-1]]


def verdict_colour(row: Row) -> str:
    """Blue where the load is held, grey where not."""
    return BLUE if row["verdict"] in HOLDING else GREY
