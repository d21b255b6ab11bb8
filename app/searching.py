"""A search in a process of its own, so that the pages of others stay quick; it shows progress and can be stopped."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import streamlit as st

from answers import COUNTS, LAYOUT
from planner.search import combinations, follow_parent, priced, ranked, smallest_of
from planner.specs.scenario import Scenario

CHUNK = 48  # combinations of one turn: others' searches come between
WAIT_S = 120.0


class Search(NamedTuple):
    """What is searched for."""

    load: Scenario
    door: str
    gpus: tuple[str, ...]
    models: tuple[str, ...]


class Outcome(NamedTuple):
    """Its rows: those that hold the load, best first, and the others."""

    search: Search
    candidates: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


@lru_cache(maxsize=1)
def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=follow_parent)


def run(search: Search) -> None:
    """Search and keep the outcome in the session; a rerun of the page cancels what has not begun."""
    plain_load = search.load.model_copy(
        update=dict.fromkeys(("weight_format", "kv_format", "engine", "engine_version", "max_num_seqs"))
    )
    if search.load.engine == "llama.cpp":
        plain_load = plain_load.model_copy(update={"engine": "llama.cpp"})
    fewest = search.door == "load"
    if fewest:
        plain_load = plain_load.model_copy(update=dict.fromkeys(LAYOUT))
    scenarios = combinations(plain_load, search.models, search.gpus)
    if fewest:
        scenarios = [scenario.model_copy(update={"n_gpus": count}) for scenario in scenarios for count in COUNTS]
    size = CHUNK * (len(COUNTS) if fewest else 1)
    chunks = [scenarios[at : at + size] for at in range(0, len(scenarios), size)]
    futures: list[Future[list[dict[str, Any]]]] = [_pool().submit(priced, chunk) for chunk in chunks]
    rows: list[dict[str, Any]] = []
    bar = st.progress(0.0, "Searching")
    try:
        for done, future in enumerate(futures, 1):
            rows += future.result(timeout=WAIT_S)
            bar.progress(done / len(futures), f"{len(rows):,} of {len(scenarios):,} priced")
    finally:
        for future in futures:
            future.cancel()
        bar.empty()
    if fewest:
        rows = smallest_of(rows, len(COUNTS))
    st.session_state["found"] = Outcome(search, *ranked(rows))
