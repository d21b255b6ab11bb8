"""The answer as the calculator shows it: the verdict, four figures, the memory of one GPU, what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

import bars
from drawing import draw
from planner import explain
from planner.billing import HOURS_PER_MONTH
from planner.estimate.columns import EstimateRow
from planner.explain.words import HOLDING
from state import DROPPED, REFUSED, TOLD, apply
from words import evidence, plain

INPUTS = "Inputs are in the bar at the left; on a phone, » opens it with the list of pages."
BOXES = {
    "no": (st.error, ":material/cancel:"),
    "starts": (st.warning, ":material/hourglass_top:"),
    "queues": (st.warning, ":material/hourglass_top:"),
    "holds": (st.success, ":material/check_circle:"),
    "meets_slo": (st.success, ":material/verified:"),
}
MISSED = st.warning, ":material/flag:"
BOUND = {  # in two short lines, so that two tiles stand side by side on a phone
    "memory": ("bandwidth", "of GPU memory"),
    "compute": ("compute", "arithmetic"),
    "network": ("GPU link", "messages"),
    "overhead": ("step overhead", "launches, host"),
    "kv_pool": ("KV room", "requests wait for it"),
}


def problems(question: str = "") -> None:
    """What the page answers, what a link held that it cannot use, and what an edit brought with it."""
    with st.container():  # whatever it says, what stands below keeps its place
        st.caption(f"{question} {INPUTS}".lstrip())
        _problems()


def _problems() -> None:
    dropped = st.session_state.get(DROPPED, ())
    if dropped:
        lines = "\n".join(f"- {plain(line)}" for line in dropped[:12])
        more = f"\n- and {len(dropped) - 12} more" if len(dropped) > 12 else ""
        body = f"These values were left out, the rest of the link is used:\n\n{lines}{more}"
        st.warning(body, title="The link had values this page cannot use", icon=":material/link_off:")
    told = st.session_state.pop(TOLD, "")
    if told:
        st.info(plain(told), icon=":material/tune:")
    refused = st.session_state.pop(REFUSED, "")
    if refused:
        st.warning(
            plain(f"{refused[:1].upper()}{refused[1:]}."),
            title="Not taken; the scenario stays as it was",
            icon=":material/undo:",
        )


def verdict(row: EstimateRow, door: str) -> None:
    """The verdict in one sentence, with its margin; behind the door of a load, the GPUs that it takes."""
    said = explain.verdict(row)
    box, icon = MISSED if explain.misses(row) else BOXES[said.state]
    headline = said.headline
    if door == "load":
        count, name = row["n_gpus"], explain.gpu_name(row["gpu"])
        s = "" if count > 1 else "s"
        more = f" and meet{s} the objectives" if said.state == "meets_slo" else ""
        if explain.misses(row):
            more = ", but no number of them that was tried meets the objectives"
        enough = explain.VERDICT_RANK[said.state] >= explain.VERDICT_RANK["holds"]
        headline = (
            f"{count} × {name} hold{s} this load{more}." if enough else f"Not even {count} × {name} hold this load."
        )
    box(plain(said.sentence), title=plain(headline), icon=icon)


def tiles(row: EstimateRow) -> None:
    """Who waits, how fast for each, how fast for all, and what limits it."""
    if row["ttft_ms"] is None:
        return
    first, first_span = explain.duration(row, "ttft_ms")
    alone, _ = explain.duration(row, "ttft_unloaded_ms")
    between, between_span = explain.duration(row, "tpot_ms")
    generates = row["tpot_ms"] is not None
    boxes = st.container(horizontal=True)
    if generates:
        name, unit = "output_tokens_per_s_per_request", "tok/s"
        tip = f"Tokens per second that one user reads: 1 / TPOT. Between tokens (TPOT): {between} ({between_span})."
    else:
        name, unit, tip = "requests_per_s", "req/s", "Finished requests per second, whole deployment."
    _tile(boxes, "Each user" if generates else "Requests", f"{_figure(row, name)} {unit}", explain.span(row, name), tip)
    tip = f"Mean time to first token (TTFT) under this load, queueing included. Alone: {alone}."
    if row["waves"]:
        tip += (
            f" As load tests measure it: {row['waves']:g} times the requests are offered at once, and the first wave "
            "waits longest. Objectives are held against what comes after it."
        )
    _tile(boxes, "First token" if generates else "Waits", first, first_span, tip)
    name = "output_tokens_per_s" if generates else "prefill_tokens_per_s"
    tip = (
        "Generated tokens per second of the whole deployment."
        if generates
        else "Prompt tokens per second of one replica."
    )
    _tile(boxes, "Whole server", f"{_figure(row, name)} tok/s", explain.span(row, name), tip)
    tip = "What takes most of a mean step, or what keeps more requests from running at once."
    _tile(boxes, "Limited by", *BOUND.get(row["bound"], ("–", "")), tip)
    first_wave = row["waves"] and row["ttft_slo_ms"] and row["ttft_ms"] > row["ttft_slo_ms"]
    more = (
        " The first token shown counts the first wave of a load test, which the objective does not."
        if first_wave
        else ""
    )
    st.caption(plain(f"Ranges hold 80 % of cases.{more} {_price(row)} Basis: {evidence(row)}."))


def _price(row: EstimateRow) -> str:
    """What the GPUs cost while they run, and of that a million answer tokens at this load."""
    hour = row["usd_per_hour"]
    if not hour:
        return "No price of this GPU is known; enter one under Card and price."
    cost, ends = explain.answer_price(row)
    tokens = f"{cost} ({ends}) USD for a million answer tokens; " if cost else ""
    month = explain.figure(hour * HOURS_PER_MONTH)
    return f"Price: {tokens}{hour:,.2f} USD an hour, {month} USD a month when never switched off."


def _figure(row: EstimateRow, name: str) -> str:
    return explain.figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))


def _tile(box: Any, label: str, value: str, small: str, tip: str) -> None:
    box.metric(label, value, small or None, delta_color="off", delta_arrow="off", help=tip, border=True)


def memory(row: EstimateRow) -> None:
    """One GPU's memory, as a bar and in words."""
    count = row["n_gpus"] or 1
    each = f"each of {count}" if count > 1 else "one GPU"
    chart, words = bars.memory_bar(row, st.context.theme.type == "dark")
    parts = " · ".join(f"{name} {size:.1f}" for name, size, _ in bars.memory_parts(row))
    st.markdown(f"**GPU memory, {each}**, GiB: {plain(parts)}")
    draw(st.container(), "chart_memory", chart, words)


def changes(found: Sequence[explain.Change], row: EstimateRow) -> None:
    """Changes as buttons that say what each would do."""
    st.subheader(
        "What would help" if row["verdict"] not in HOLDING or explain.misses(row) else "What would change it",
        anchor=False,
    )
    if not found:
        st.caption("No single change of format, load or hardware that is tried here helps.")
    if row["verdict"] == "no":
        st.page_link("views/recommend.py", label="Search for what runs on this hardware", icon=":material/search:")
    for number, item in enumerate(found):
        line = st.container(gap=None)
        line.button(f"**{plain(item.label)}**", key=f"change_{number}", on_click=apply, args=(item.update,))
        line.caption(plain(item.effect))
