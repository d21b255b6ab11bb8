"""A month of a deployment in money, idle hours and spare replicas included, and against the price of an API."""

from __future__ import annotations

import streamlit as st

from planner import billing, explain
from planner.billing import Fleet, TokenPrice, Traffic
from planner.estimate.columns import EstimateRow

BUSY = 30  # per cent of what the deployment can do, as the first guess of a month


def month_box(row: EstimateRow) -> None:
    """Inputs and the bill."""
    if not row["usd_per_hour"] or not row["requests_per_s"]:
        st.caption("No price of this GPU is known; enter one under Prices.")
        return
    inputs = st.container(horizontal=True)
    busy = inputs.number_input(
        "Busy, % of the month", 0.1, 100.0, float(BUSY), 5.0, format="%g", key="m_busy",
        help="100: the load above all day and night. Nights, weekends and quiet hours bring it down.",
    )  # fmt: skip
    spare = inputs.number_input("Spare replicas", 0, 1000, 0, key="m_spare", help="Kept for failures and updates.")
    price_in = inputs.number_input("API, USD per M prompt tokens", 0.0, 1000.0, 0.5, 0.1, format="%g", key="m_in")
    price_out = inputs.number_input("API, USD per M answer tokens", 0.0, 1000.0, 1.5, 0.1, format="%g", key="m_out")
    fleet, traffic, capacity = terms(row, busy / 100, int(spare))
    share = billing.input_share(row["usd_per_million_input_tokens"], row["usd_per_million_output_tokens"], traffic)
    bill = billing.month(fleet, traffic, capacity, share)
    boxes = st.container(horizontal=True)
    boxes.metric("A month, USD", f"{float(bill.usd_per_month):,.0f}", border=True)
    boxes.metric("A request, USD", f"{explain.figure(float(bill.usd_per_request))}", border=True)
    boxes.metric("M prompt tokens, USD", f"{explain.figure(float(bill.usd_per_million_input_tokens))}", border=True)
    boxes.metric("M answer tokens, USD", f"{explain.figure(float(bill.usd_per_million_output_tokens))}", border=True)
    st.caption("Idle hours and spare replicas are in these; the prices above are those of a busy hour.")
    st.markdown(against(fleet, traffic, capacity, TokenPrice(price_in, price_out)))


def terms(row: EstimateRow, busy_fraction: float, spare: int) -> tuple[Fleet, Traffic, float]:
    """The fleet, the month's traffic, and what the fleet can serve at the load of the row."""
    replicas = float(row["dp"] or 1)
    fleet = Fleet(row["usd_per_gpu_hour"], (row["n_gpus"] or 1) / replicas, replicas, float(spare))
    capacity = row["requests_per_s"]
    return fleet, Traffic(capacity * busy_fraction, row["input_tokens"], row["output_tokens"]), capacity


def against(fleet: Fleet, traffic: Traffic, capacity: float, price: TokenPrice) -> str:
    """One's own GPUs against the API, in a sentence."""
    found = billing.compare(fleet, traffic, capacity, price)
    own, api, even = (float(value) for value in found[:3])
    if not api:
        return "An API that takes nothing is cheaper than any GPU."
    cheaper = "Your own GPUs are cheaper" if own < api else "The API is cheaper"
    said = f"**{cheaper}**: {own:,.0f} USD a month against {api:,.0f} USD."
    if not found.reachable:
        return f"{said} It takes {even:,.3g} requests/s to break even, and these GPUs serve {capacity:,.3g} at most."
    share = f"{100 * even / capacity:.0f} % of what these GPUs serve"
    return f"{said} Both cost the same at {even:,.3g} requests/s in the month's mean, {share}."
