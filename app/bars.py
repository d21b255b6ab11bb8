"""Bar charts: the memory of one GPU, the parts of a step, scenarios side by side; each says its conclusion in words."""

from __future__ import annotations

from collections.abc import Sequence

from drawing import (
    BLUE,
    FONT,
    FREE,
    GREEN,
    GREY,
    LINE,
    ORANGE,
    PURPLE,
    RED,
    Chart,
    frame,
    label_at,
    scale,
)
from planner import explain
from planner.estimate.breakdown import StepPart
from planner.estimate.columns import EstimateRow
from planner.explain.words import HOLDING

SEGMENTS = (
    ("weights", "weights_gib", BLUE),
    ("KV cache", "kv_used_gib", ORANGE),
    ("KV free", "kv_spare_gib", "rgba(230,159,0,0.35)"),
    ("recurrent state", "states_gib", GREEN),
    ("activations", "activation_gib", PURPLE),
    ("context, libraries", "non_torch_gib", GREY),
    ("CUDA graphs", "cuda_graph_gib", "#5f656e"),
    ("held by others", "reserved_gib", "#4a4f57"),
    ("unused", "free_gib", FREE),
)
TEXT_ROOM = 2.1  # axis over the longest bar, so that a figure with its interval stands beside it, on a phone too
STEP_ROOM = 2.5  # the same where the text says what bounds a part as well
GAMMA, EVEN = 2.2, 0.18  # of a screen; the luminance on which black and white are read equally well (WCAG 2)
ONE_LINE = 14  # letters of a bar's label
KINDS = {
    "gemm": BLUE, "moe": "#56b4e9", "attention": ORANGE, "recurrent": GREEN, "elementwise": PURPLE,
    "communication": RED, "engine": GREY, "prompts": "#8c6d1f",
}  # fmt: skip
OPERATIONS = {  # that their names do not explain
    "elementwise": "norms and the like",
    "prompts": "prompts of others",
    "attention.a": "attention, latents",
    "attention.q_b": "attention, queries",
    "attention.kv_b": "attention, keys",
    "attention.o": "attention, output",
    "all_reduce.mixer": "all reduce, attention",
    "linear.ba": "linear, gates",
}


def memory_parts(row: EstimateRow) -> list[tuple[str, float, str]]:
    """Segments of one GPU's memory, GiB, in the order of the bar; the pool is split into needed and spare."""
    pool = row["kv_pool_gib"] or 0.0
    used = min(row["kv_needed_gib"] or 0.0, pool)
    states = explain.states_beside_pool_gib(row)
    sizes = row | {"kv_used_gib": used, "kv_spare_gib": max(pool - used, 0.0), "states_gib": states}
    return [(name, sizes[column], colour) for name, column, colour in SEGMENTS if (sizes[column] or 0) > 0.005]


def memory_bar(row: EstimateRow, dark: bool = False) -> tuple[Chart, str]:
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
    """Text on a segment: on transparent ones the theme's, else black or white, whichever is farther from the fill."""
    if colour.startswith("rgba"):
        return "#f0f0f0" if dark else "#1c2126"
    red, green, blue = ((int(colour[at : at + 2], 16) / 255) ** GAMMA for at in (1, 3, 5))
    return "#0b0d10" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > EVEN else "#fff"


def step_bars(parts: Sequence[StepPart], limit: int = 9) -> tuple[Chart, str]:
    """Milliseconds of one step by operation and what prompts add, longest first, with what bounds each."""
    shown = list(parts[:limit])
    rest = sum(part.seconds for part in parts[limit:])
    total = sum(part.seconds for part in parts)
    labels = [_operation(part.name) for part in shown] + (["everything else"] if rest else [])
    values = [part.seconds * 1e3 for part in shown] + ([rest * 1e3] if rest else [])
    colours = [KINDS.get(part.kind, GREY) for part in shown] + ([GREY] if rest else [])
    bounds = [STEP_WORDS[part.bound] for part in shown] + ([""] if rest else [])
    texts = [
        f"{explain.figure(value)} ms{f' · {bound}' if bound else ''}"
        for value, bound in zip(values, bounds, strict=True)
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
        "xaxis": scale("ms of one step") | {"range": [0, max(values, default=1) * STEP_ROOM]},
        "yaxis": {"autorange": "reversed", "automargin": True, "fixedrange": True, "tickfont": FONT},
    }
    first = f"{100 * values[0] / sum(values):.0f} % of it {labels[0]}" if shown else "nothing runs"
    bound = f", bound by {bounds[0]}" if bounds and bounds[0] else ""
    words = f"A step takes {total * 1e3:.1f} ms in the mean; {first}{bound}."
    if any(part.kind == "prompts" for part in parts):
        words += " Prompts of others run in some steps only; their bar is the mean over all."
    return {"data": data, "layout": layout}, words


STEP_WORDS = {"memory": "memory", "compute": "arithmetic", "network": "GPU link", "overhead": "launch", "prompts": ""}


def _operation(name: str) -> str:
    return OPERATIONS.get(name) or name.replace("_", " ").replace(".", ", ")


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
    title = label_at(0, 1.0, f"<b>{unit}</b>", "left") | {"xref": "paper", "yref": "paper", "yanchor": "bottom"}
    layout = frame(height=40 + 34 * len(labels), margin={"l": 8, "r": 8, "t": 28, "b": 8}) | {
        "showlegend": False,
        "annotations": [title],
        "xaxis": scale("") | {"range": [0, TEXT_ROOM * most], "showticklabels": False, "ticks": ""},
        "yaxis": {"autorange": "reversed", "automargin": True, "fixedrange": True, "tickfont": FONT},
    }
    return {"data": data, "layout": layout}


def verdict_colour(row: EstimateRow) -> str:
    """Blue where the load is held, grey where not."""
    return BLUE if row["verdict"] in HOLDING else GREY
