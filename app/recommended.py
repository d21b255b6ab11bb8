"""What a search found: the winner and why, the next ones as cards, quality against cost, everything as a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from advice import quality_said, said_lines
from advice_charts import pareto_points
from answers import LAYOUT
from drawing import CONFIG, Drawn
from exports import start_line
from links import Form
from money import month_box
from planner import explain
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.explain.quality import across_sizes, badge, in_short
from planner.search import Recommendation, words
from planner.search.starting import SETTABLE
from planner.specs.wish import RankBy, Wish
from state import change
from tables import NUMBERS, TEXTS, line
from words import action, plain

CARDS = 6
NEAREST = 3
MOST_ROWS, MOST_REFUSED = 200, 500
FULL_TABLE = 10  # rows of a table that scrolls
BADGE_COLOURS = {
    "own test": "violet",
    "reference": "green",
    "native": "green",
    "trained for": "green",
    "good": "green",
    "fair": "blue",
    "thin": "orange",
    "conflicting": "red",
    "none": "gray",
}
EXPECTED = (
    "Which model answers better is expected from its size and date and from what its format loses, not measured. Name "
    "models that you trust under Choose from, or try two of them on your own examples."
)


def winner(found: Recommendation, wish: Wish, library: Library) -> None:
    """What to run and why it comes first; or why nothing is left, and what is the best that can be had."""
    if not found.candidates:
        verdict = f"{found.verdict[:1].upper()}{found.verdict[1:]}."
        st.error(plain(verdict), title="Nothing holds this load within these limits", icon=":material/cancel:")
        _nearest(found)
        return
    best = found.candidates[0]
    lines = "  \n".join(plain(line) for line in words.reasons(found, wish))
    st.success(lines, title=plain(words.headline(found)), icon=":material/verified:")
    if _several_models(found.candidates) and wish.rank_by in (RankBy.QUALITY, RankBy.BLEND):
        st.caption(EXPECTED)
    for said in quality_said(best, library):
        if said.warns:
            st.caption(f":material/warning: {plain(said.text)}")
    label = action("Open in the calculator")
    st.button(label, key="open_first", type="primary", on_click=open_row, args=(best,))


def _nearest(found: Recommendation) -> None:
    """What comes nearest, to be opened where single changes that would help are listed; first what has a format."""
    tried = [row for row in found.rejected if row.get("weight_format")] or found.rejected
    of_each = {row.get("model"): row for row in reversed(tried)}
    rows = [row for row in tried if of_each[row.get("model")] is row]
    for number, row in enumerate(rows[:NEAREST]):
        place = st.container(horizontal=True, vertical_alignment="center")
        kind = row.get("weight_format")
        name = explain.model_name(row.get("model")) + (f" in {explain.format_name(str(kind))}" if kind else "")
        place.markdown(plain(f"Nearest: {name} on {explain.gpu_name(str(row.get('gpu') or ''))}: {row['reason']}"))
        _open(place, row, "What would help", f"nearest_{number}")


def background(found: Recommendation, library: Library) -> None:
    """Of the winner, folded: what is known of its quality, how to start it, what it costs in a month."""
    best = found.candidates[0]
    with st.expander("What is known of its quality", key="why_quality", on_change="rerun") as box:
        if box.open:
            _quality(best, found.candidates, library)
    with st.expander("Start it", key="why_start", on_change="rerun") as box:
        if box.open:
            start_line(best)
    with st.expander("A month in money, and against an API", key="why_money", on_change="rerun") as box:
        if box.open:
            month_box(best)


def _quality(best: EstimateRow, rows: Sequence[EstimateRow], library: Library) -> None:
    said_lines(st, quality_said(best, library))
    other = next((row for row in rows if row["model"] != best["model"]), None)
    compared = across_sizes(best, other) if other else None
    said_lines(st, [compared] if compared else [])


def _open(place: Any, row: EstimateRow, label: str, key: str) -> None:
    place.button(label, key=key, icon=":material/calculate:", on_click=open_row, args=(row,), width="content")


def open_row(row: EstimateRow) -> None:
    """For callbacks: a candidate goes to the calculator."""
    kept = ("model", "gpu", "weight_format", "kv_format", "engine", "usd_per_gpu_hour", *LAYOUT)
    needed = {name: row[name] for name in (row.get("settings_needed") or "").split()}
    update = {name: row.get(name) for name in kept} | dict.fromkeys(SETTABLE) | needed

    def opened(form: Form) -> Form:
        """What was rejected has no number of GPUs of its own: on given hardware it is that of the form."""
        count = row.get("n_gpus") or (form.scenario.n_gpus if form.door == "hardware" else None)
        return form._replace(door="hardware", scenario=form.scenario.model_copy(update=update | {"n_gpus": count}))

    change(opened)
    st.session_state["to_calculator"] = True


def _several_models(rows: Sequence[EstimateRow]) -> bool:
    return len({row["model"] for row in rows}) > 1


def distinct(rows: Sequence[EstimateRow]) -> list[EstimateRow]:
    """The first candidate of every model and GPU; of one model alone, of every format and GPU."""
    several = _several_models(rows)
    first: dict[tuple[str, str], EstimateRow] = {}
    for row in rows:
        first.setdefault((row["model" if several else "weight_format"], row["gpu"]), row)
    return list(first.values())


def cards(found: Recommendation) -> None:
    """The best of each model, or of each format of one model, as cards."""
    st.subheader("The next ones", anchor=False)
    each = "model" if _several_models(found.candidates) else "format"
    st.caption(f"The best arrangement of each {each} and GPU. A tie is too close to the first to tell which is better.")
    shown = [row for row in distinct(found.candidates) if row["rank"] > 1][:CARDS]
    for start in range(0, len(shown), 3):
        for place, row in zip(st.columns(3), shown[start : start + 3], strict=False):
            _card(place.container(border=True, height="stretch"), row)
    if not shown:
        st.caption("No other holds this load.")


def _card(place: Any, row: EstimateRow) -> None:
    name = explain.model_name(row["model"])
    place.markdown(f"**{row['rank']}. {plain(name)}** · {plain(explain.format_name(row['weight_format']))}")
    with_settings = f", with {words.needed(row)}" if words.needed(row) else ""
    place.caption(plain(words.arrangement(row) + with_settings))
    marks = place.container(horizontal=True, gap="small")
    kind = row["quality_evidence"] or "none"
    marks.badge(badge(kind), color=BADGE_COLOURS.get(kind, "gray"), help=in_short(row))
    if 1 in row["tie_with"]:
        marks.badge("tie with the first", color="blue")
    if row["pareto"]:
        marks.badge("best of its cost", color="yellow", help="No other is better in quality, cost and time at once.")
    each = explain.interval(row, "output_tokens_per_s_per_request")
    first, ends = explain.duration(row, "ttft_ms")
    tokens = row["usd_per_million_output_tokens"]
    money = f" · {words.thousand_price(row)} USD per 1,000 requests" if row["usd_per_request"] else ""
    money += f", {explain.figure(tokens)} USD per M answer tokens" if tokens else ""
    place.markdown(plain(f"{each} tok/s each · first token {first} ({ends}){money}"))
    _open(place, row, "Open", f"open_{row['rank']}")


def front(found: Recommendation) -> None:
    """Quality against cost; a click on a point opens it."""
    rows = [row for row in found.candidates if row["usd_per_request"]]
    if len(rows) < 2:
        return
    st.subheader("Quality against cost", anchor=False)
    labels = [f"{words.settings(row)}, {words.arrangement(row)}" for row in rows]
    chart, told = pareto_points(rows, labels)
    st.plotly_chart(
        Drawn(chart),
        key="pareto",
        config=CONFIG,
        alt=told,
        on_select=partial(_open_point, rows),
        selection_mode="points",
    )
    st.caption(plain(f"{told} Larger points answer later, grey ones are beaten in everything. Click one to open it."))


def _open_point(rows: Sequence[EstimateRow]) -> None:
    """For callbacks: the point that was clicked goes to the calculator."""
    points = st.session_state["pareto"].selection.points
    if points and points[0]["point_index"] < len(rows):
        open_row(rows[points[0]["point_index"]])


def table(found: Recommendation, library: Library) -> EstimateRow | None:
    """All candidates, filtered by words; the selected one."""
    st.subheader("All candidates", anchor=False)
    hint = "words of model, format or GPU: qwen fp8 h100"
    wanted = st.text_input("Filter", key="filter", placeholder=hint).lower().split()
    rows = [row for row in found.candidates if all(word in _text(row) for word in wanted)][:MOST_ROWS]
    if not rows:
        st.caption("No candidate has all these words.")
        return None
    frame = pd.DataFrame([{"rank": row["rank"]} | line(row, library) | {"quality": in_short(row)} for row in rows])
    event = st.dataframe(
        frame,
        hide_index=True,
        key="candidates",
        on_select="rerun",
        selection_mode="single-row",
        height=430 if len(rows) > FULL_TABLE else "content",
        column_config=NUMBERS
        | {name: st.column_config.Column(label) for name, label in TEXTS.items()}
        | {"rank": st.column_config.NumberColumn("#"), "quality": st.column_config.Column("Quality", width="medium")},
        alt="Candidates, best first",
    )
    at = event.selection.rows
    return rows[at[0]] if at and at[0] < len(rows) else None


def _text(row: EstimateRow) -> str:
    return f"{row['model']} {row['weight_format']} {row['kv_format']} {row['engine']} {row['gpu']}".lower()


def refused(found: Recommendation) -> None:
    """What was rejected, why, and how many for each reason."""
    st.caption(plain(f"{words.refusals(found)}."))
    frame = pd.DataFrame(
        [
            {
                "Model": explain.model_name(row.get("model")),
                "Weights": explain.format_name(str(row.get("weight_format") or "")),
                "GPU": explain.gpu_name(str(row.get("gpu") or "")),
                "Reason": row.get("reason") or row.get("error"),
                "tp": row.get("tp"),
                "KV": row.get("kv_format"),
                "Engine": explain.engine_name(str(row.get("engine") or "")),
            }
            for row in found.rejected[:MOST_REFUSED]
        ]
    )
    columns = {"Reason": st.column_config.TextColumn(width="large")}
    st.dataframe(
        frame,
        hide_index=True,
        column_config=columns,
        alt="Combinations that were rejected, nearest first, with reasons",
    )
    if len(found.rejected) > MOST_REFUSED:
        st.caption(f"The nearest {MOST_REFUSED:,} of {len(found.rejected):,}; the file has them all.")
