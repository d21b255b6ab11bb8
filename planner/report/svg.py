"""Two charts as SVG text, drawn with nothing but rectangles, lines and words: they print, and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from planner.estimate.columns import EstimateRow
from planner.explain.words import figure, states_beside_pool_gib

Points = Sequence[tuple[float, float]]

WIDTH, BAR_HEIGHT, PANEL_HEIGHT = 900, 120, 190
LEFT, RIGHT = 70, 20  # margins of a panel
SEGMENTS = (
    ("weights", "weights_gib", "weights"),
    ("KV pool", "kv_pool_gib", "kv"),
    ("recurrent state", "states_gib", "state"),
    ("activations", "activation_gib", "activation"),
    ("context, libraries", "non_torch_gib", "other"),
    ("CUDA graphs", "cuda_graph_gib", "other"),
    ("held by others", "reserved_gib", "other"),
    ("unused", "free_gib", "free"),
)


def memory_bar(row: EstimateRow) -> str:
    """One GPU's memory, GiB: a segment for each use, the card and the engine's budget as lines."""
    sizes = row | {"states_gib": states_beside_pool_gib(row)}
    parts = [(name, sizes[column] or 0.0, kind) for name, column, kind in SEGMENTS if (sizes[column] or 0) > 0.005]
    most = max(sum(size for _, size, _ in parts), row["device_gib"])
    scale, at, body = WIDTH / most, 0.0, []
    for name, size, kind in parts:
        wide = size * scale
        body.append(f'<rect class="{kind}" x="{at:.1f}" y="24" width="{wide:.1f}" height="56"/>')
        if wide > 90:
            body.append(_text(at + wide / 2, 50, name, "middle") + _text(at + wide / 2, 68, f"{size:.1f}", "middle"))
        elif wide > 34:
            body.append(_text(at + wide / 2, 58, f"{size:.1f}", "middle"))
        at += wide
    for name, size in (("card", row["device_gib"]), ("budget", row["budget_gib"])):
        x = size * scale
        body.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="84"/>')
        body.append(_text(x - 4, 16 if name == "card" else 100, f"{name} {size:.1f} GiB", "end"))
    return _svg(
        BAR_HEIGHT, body, f"Memory of one GPU: {', '.join(f'{name} {size:.1f} GiB' for name, size, _ in parts)}"
    )


def load_speed(curve: Sequence[EstimateRow], row: EstimateRow) -> str:
    """Tokens/s for each user and the time to first token against requests at once, with their 80 % intervals."""
    rows = [item for item in curve if item["ttft_ms"] is not None]
    if not rows:
        return ""
    first = "output_tokens_per_s_per_request" if row["output_tokens"] else "requests_per_s"
    body = _panel(rows, row, first, (0, False, "tokens/s for each user" if row["output_tokens"] else "requests/s"))
    body += _panel(rows, row, "ttft_ms", (PANEL_HEIGHT, True, "first token, ms"))
    body.append(_text(WIDTH / 2, 2 * PANEL_HEIGHT + 14, "requests at once", "middle"))
    return _svg(2 * PANEL_HEIGHT + 22, body, "Speed for each user and time to first token against requests at once")


def _panel(rows: Sequence[EstimateRow], row: EstimateRow, name: str, where: tuple[float, bool, str]) -> list[str]:
    """One panel: its place from the top, whether its axis is logarithmic, its title."""
    top, logarithmic, title = where
    x0, x1 = math.log(rows[0]["concurrency"]), math.log(max(rows[-1]["concurrency"], rows[0]["concurrency"] + 1))
    values = [v for item in rows for v in (item[f"{name}_low"], item[f"{name}_high"], item[name]) if v]
    low, high = (min(values) if logarithmic else 0.0), max(values)

    def place(load: float, value: float) -> tuple[float, float]:
        part = math.log(value / low) / math.log(high / low) if logarithmic and high > low else value / high
        across = LEFT + (math.log(load) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, top + PANEL_HEIGHT - 30 - part * (PANEL_HEIGHT - 60)

    kept = [item for item in rows if item[name] and item[f"{name}_low"] and item[f"{name}_high"]]
    ends = [place(item["concurrency"], item[f"{name}_high"]) for item in kept]
    ends += [place(item["concurrency"], item[f"{name}_low"]) for item in reversed(kept)]
    line = [place(item["concurrency"], item[name]) for item in kept]
    out = [_text(LEFT, top + 18, title, "start"), f'<polygon class="band" points="{_points(ends)}"/>']
    out.append(f'<polyline class="line" points="{_points(line)}"/>')
    out += [_text(LEFT - 8, place(rows[0]["concurrency"], v)[1] + 4, figure(v), "end") for v in (low or high / 2, high)]
    base = top + PANEL_HEIGHT - 30
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    out += [_text(place(n, high)[0], base + 16, f"{n:,}", "middle") for n in _ticks(rows)]
    now = next((item for item in kept if item["concurrency"] == row["concurrency"]), None)
    if now:
        x, y = place(now["concurrency"], now[name])
        out.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    room = row["max_concurrency"]
    if room and rows[0]["concurrency"] <= room <= rows[-1]["concurrency"]:
        x = place(room, high)[0]
        out.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 24}" y2="{base}"/>')
        out.append(_text(x - 4, top + 34, f"KV full: {room:,}", "end"))
    return out


def _ticks(rows: Sequence[EstimateRow]) -> list[int]:
    powers = (2**n for n in range(0, 24, 2))
    return [n for n in powers if rows[0]["concurrency"] <= n <= rows[-1]["concurrency"]]


def _points(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, body: Sequence[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    return head + "".join(body) + "</svg>"
