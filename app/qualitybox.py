"""What a quality check found, as its page shows it: the verdict in words, tags, what else differs, the flips."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from checking import Result
from planner.report import json_text
from words import plain

BOXES = {
    "holds": (st.success, ":material/check_circle:"),
    "cracks": (st.error, ":material/cancel:"),
    "cannot tell": (st.warning, ":material/help:"),
}
PER_PAGE = 10
TAGS = {
    "tag": st.column_config.TextColumn("Tag"),
    "verdict": st.column_config.TextColumn("Verdict"),
    "examples": st.column_config.NumberColumn("Examples"),
    "worse": st.column_config.NumberColumn("Got worse"),
    "better": st.column_config.NumberColumn("Got better"),
    "difference_points": st.column_config.NumberColumn("Difference, points", format="%+.1f"),
    "difference_points_low": st.column_config.NumberColumn("from", format="%+.1f", help="95 % interval"),
    "difference_points_high": st.column_config.NumberColumn("to", format="%+.1f", help="95 % interval"),
    "p": st.column_config.NumberColumn(
        "p", format="%.3g", help="Of a drop, one-sided and exact; of tags corrected for their number (Holm)"
    ),
    "baseline_percent": st.column_config.NumberColumn("Before, % pass", format="%.1f"),
    "candidate_percent": st.column_config.NumberColumn("After, % pass", format="%.1f"),
}


def verdict(document: dict[str, Any]) -> None:
    """Holds, cracks or cannot tell, with what it rests on."""
    box, icon = BOXES[document["verdict"]]
    box(plain(" ".join(document["sentences"])), title=plain(document["headline"]), icon=icon)
    failed = document["failed"]
    if failed:
        lines = "\n".join(f"- {plain(name)}: {plain(why)}" for name, why in list(failed.items())[:5])
        more = f"\n- and {len(failed) - 5} more" if len(failed) > 5 else ""
        st.warning(
            f"{lines}{more}\n\nCheck again asks these alone.", title="Without an answer", icon=":material/cloud_off:"
        )


def downloads(found: Result) -> None:
    """Every example as CSV, the report, the document, and answers that another check can use."""
    files = [
        ("CSV", found.csv, "quality-check.csv", "text/csv"),
        ("Report", found.html, "quality-check.html", "text/html"),
        ("JSON", json_text(found.document).encode(), "quality-check.json", "application/json"),
    ]
    files += [
        (f"Answers {'before' if side == 'baseline' else 'after'}", data, f"{side}.jsonl", "application/jsonl")
        for side, data in found.answers.items()
    ]
    files += [
        (f"Speed {'before' if side == 'baseline' else 'after'}", json_text(speed).encode(), f"speed-{side}.json",
         "application/json")
        for side, speed in found.document["observations"].items()
    ]  # fmt: skip
    with st.container(horizontal=True):
        for label, data, name, kind in files:
            st.download_button(label, data, name, kind, on_click="ignore", key=f"qc_get_{name}")
    if found.document["observations"]:
        st.caption("Speed: what planner observe takes to check and refine the predicted tokens/s of this engine.")


def tags(document: dict[str, Any]) -> None:
    """All examples and each tag by itself."""
    frame = pd.DataFrame(document["parts"])[list(TAGS)]
    st.subheader("By tag", anchor=False)
    st.dataframe(
        frame, hide_index=True, key="qc_tags", column_config=TAGS,
        alt="Verdict, flips and interval of the difference for all examples and for each tag",
    )  # fmt: skip
    if len(frame) > 2:
        st.caption("The more tags, the more must one of them show: its p is corrected for their number (Holm).")


def manners(document: dict[str, Any]) -> None:
    """Length, refusals, time and speed of both sides."""
    lines = [
        {"What": row["figure"], "Before": row["baseline"], "After": row["candidate"]} for row in document["manner"]
    ]
    st.subheader("What else differs", anchor=False)
    number = st.column_config.NumberColumn(format="%.3g")
    st.dataframe(
        pd.DataFrame(lines), hide_index=True, key="qc_manner", column_config={"Before": number, "After": number},
        alt="Length of answers, refusals, time and speed, before and after",
    )  # fmt: skip


def flips(document: dict[str, Any]) -> None:
    """The examples that flipped, both answers side by side."""
    rows = document["flips"]
    worse, better = len(document["worse"]), len(document["better"])
    st.subheader("Examples that flipped", anchor=False)
    if not rows:
        st.caption("None: every example passes before and after, or fails before and after.")
        return
    st.caption(f"{worse} got worse, {better} got better; the worst first.")
    pages = -(-len(rows) // PER_PAGE)
    page = 1
    if pages > 1:
        page = st.number_input(f"Page, 1 to {pages}", 1, pages, 1, key="qc_page", width=160)
    for row in rows[(page - 1) * PER_PAGE : page * PER_PAGE]:
        _flip(row)
    if worse + better > len(rows):
        st.caption(f"{len(rows)} of {worse + better} are shown; the CSV holds all.")


def _flip(row: dict[str, Any]) -> None:
    icon = ":material/trending_down:" if row["change"] == "worse" else ":material/trending_up:"
    tagged = f" · {plain(row['tags'])}" if row["tags"] else ""
    with st.container(border=True):
        st.markdown(f"{icon} **{plain(row['id'])}** got {row['change']}{tagged}")
        st.text(row["asked"][:1000])
        for column, side, label in zip(st.columns(2), ("baseline", "candidate"), ("Before", "After"), strict=True):
            column.caption(f"{label}: {row[f'{side}_passed']} passed")
            column.code(row[f"{side}_output"] or "(empty)", language=None, wrap_lines=True)
