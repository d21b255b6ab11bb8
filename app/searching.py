"""A search in processes of its own, so that the pages of others stay quick; it shows progress and can be stopped."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import lru_cache
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from planner.estimate.evidence import folder_stamp
from planner.search import Recommendation, Space, Wish, follow_parent, judged, sift, tasks
from planner.search.records import Sifted
from planner.specs.scenario import Scenario

WAIT_S = 120.0


class Search(NamedTuple):
    """What is searched for."""

    load: Scenario
    space: Space
    wish: Wish


class Outcome(NamedTuple):
    """What was found, and how long it took."""

    search: Search
    found: Recommendation
    seconds: float


@lru_cache(maxsize=1)
def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=follow_parent)


def run(search: Search, place: DeltaGenerator) -> Outcome:
    """Search, with progress at `place`; any rerun of the page cancels what has not begun. Raises PlannerError."""
    begun = time.monotonic()
    stamp = folder_stamp()
    futures: list[Future[Sifted]] = [_pool().submit(sift, task, stamp) for task in tasks(*search)]
    box = place.empty()
    parts: list[Sifted] = []
    try:
        with box.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0, "Searching")
            st.button("Stop", key="stop", icon=":material/stop:")
        for done, future in enumerate(as_completed(futures, timeout=WAIT_S), 1):
            parts.append(future.result())
            bar.progress(done / len(futures), f"{done} of {len(futures)} models")
        found = judged(search.load, search.wish, parts)
    finally:
        for future in futures:
            future.cancel()
        box.empty()
    return Outcome(search, found, time.monotonic() - begun)
