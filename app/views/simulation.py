"""Simulation: the same deployment and load, request by request: percentiles, queue, what is running over time."""

from __future__ import annotations

from typing import Any

import streamlit as st

import sidebar
import simcharts
from answerbox import problems
from drawing import draw
from library import own_library
from planner import explain
from planner.catalog.traces import EXAMPLE
from planner.errors import PlannerError
from planner.events import Routing
from planner.report import csv_text, json_text
from planner.simulation import SPREAD, Protocol
from planner.specs.scenario import Scenario
from searching import ask
from simulating import Asked, Seen, simulated, with_trace
from state import start
from words import action, plain

SEEN = "simulated"  # the last simulation of this session
TRACE_MB = 8
COUNTS = (500, 2000, 5000, 10_000)
SPREADS = {"ttft": "First token", "tpot": "Between tokens", "e2e": "Whole request", "queue": "Wait for its first step"}
ROUTES = {Routing.ROUND_ROBIN: "In turn", Routing.LEAST_LOADED: "To the least busy"}


def tiles(seen: Seen) -> None:
    """Rates, use and what went wrong."""
    row = seen.row
    boxes = st.container(horizontal=True)
    met = row["slo_attainment"]
    for label, value, tip in (
        (
            "Whole server, tokens/s",
            explain.figure(row["simulated_output_tokens_per_s"]),
            "Answer tokens of all requests.",
        ),
        ("Requests/s", explain.figure(row["simulated_requests_per_s"]), "That ended."),
        ("Engines busy", f"{100 * row['utilisation']:.0f} %", "Share of the time in which an engine runs a step."),
        ("Queue, p99", f"{row['queue_p99'] or 0:,.0f}", "Requests that wait for a place, 99th percentile over time."),
        ("Preempted", f"{row['preemptions']:,}", "Requests that lost their cache to others and were computed again."),
        (
            "Meet the objectives",
            "–" if met is None else f"{100 * met:.1f} %",
            "Of single requests; set objectives at the left.",
        ),
    ):
        boxes.metric(label, value, help=tip, border=True)
    if row["refused"]:
        st.warning(
            f"{row['refused']:,} requests are longer than the engine takes and were refused.", icon=":material/block:"
        )


def _three_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def table(seen: Seen) -> None:
    """Percentiles of the times, ms."""
    lines = [
        {"time": label} | {part: _three_digits(seen.row[f"{name}_{part}_ms"]) for part in SPREAD}
        for name, label in SPREADS.items()
    ]
    columns: dict[str, Any] = {"time": "Time"}
    columns |= {part: st.column_config.NumberColumn(f"{part}, ms", format="localized") for part in SPREAD}
    st.space("xsmall")  # where fingers point, the tools of a table stand above it
    st.dataframe(lines, hide_index=True, alt="Percentiles of each time in ms", column_config=columns)


def arrivals(scenario: Scenario) -> str:
    """When the requests of the load come."""
    if scenario.request_rate_per_s:
        return "They arrive by chance at the rate of the load (Poisson)."
    if scenario.users:
        return "Each user sends the next one after reading the last answer and thinking."
    return (
        "A request arrives whenever one ends; the calculator assumes a load test whose first ones come all at once, "
        "so its first token comes later."
    )


form = start("simulation")
library = own_library()
with st.sidebar:
    sidebar.show(form._replace(door="hardware"), library, with_door=False)
problems()
st.subheader("The same load, request by request", anchor=False)
st.caption(
    "The calculator gives averages. Here the requests of the load at the left run through the engine's scheduler one "
    f"by one, which shows the slow ones, queues and preemptions. {arrivals(form.scenario)}"
)
left, middle, right = st.columns(3, vertical_alignment="bottom")
count = left.select_slider("Requests counted", COUNTS, 2000, key="sim_count", format_func="{:,}".format)
seed = middle.number_input("Random seed", 0, 10_000, 0, key="sim_seed", help="The same seed, the same run.")
routing = right.segmented_control(
    "Replicas take requests", list(ROUTES), format_func=ROUTES.__getitem__, key="sim_routing", required=True,
    default=Routing.ROUND_ROBIN, disabled=(form.scenario.n_gpus or 1) < 2,
)  # fmt: skip
with st.expander("Your own requests instead of that load"):
    st.caption(f"A CSV file whose first line is {EXAMPLE}: seconds from the start, tokens of prompt and answer.")
    file = st.file_uploader(
        "A trace (CSV)", type=["csv"], key="sim_trace", max_upload_size=TRACE_MB,
        help="As many as are counted above are sent at those times; requests at once, rate and users say nothing then.",
    )  # fmt: skip
wanted = Asked(form.scenario, Protocol(count, int(seed), Routing(routing or Routing.ROUND_ROBIN)), library)
sent = file.file_id if file else ""  # a trace is compared by its file: its columns are arrays
asked = st.button(action("Simulate"), type="primary", key="simulate")
if asked:
    try:
        with st.spinner("Simulating"):
            st.session_state[SEEN] = (wanted, ask(simulated, with_trace(wanted, file)), sent)
    except PlannerError as error:
        st.error(plain(error), icon=":material/error:")
        st.stop()

if SEEN not in st.session_state:
    st.caption("It takes a second or two; the pages stay usable.")
    st.stop()
done, seen, was_sent = st.session_state[SEEN]
if (done, was_sent) != (wanted, sent):
    st.warning("The inputs have changed since. Simulate again for up-to-date figures.", icon=":material/history:")
if seen.timeline is None:
    st.error(plain(seen.row["reason"]), title="Does not start", icon=":material/cancel:")
    st.stop()
tiles(seen)
draw(st.container(), "chart_spread", *(spread := simcharts.spread(seen)))
st.caption(plain(spread[1]))
draw(st.container(), "chart_time", *(over := simcharts.over_time(seen)))
st.caption(plain(over[1]))
table(seen)
with st.container(horizontal=True):
    st.download_button(
        "CSV", csv_text(list(seen.row), [seen.row]), "simulation.csv", icon=":material/download:", key="sim_csv"
    )
    st.download_button("JSON", json_text([seen.row]), "simulation.json", icon=":material/download:", key="sim_json")
