"""A search with its progress on the page; it runs in the server's pool, so that the pages of others stay quick."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from planner.search import Recommendation
from searchpool import Search, SearchPool

__all__ = ["Outcome", "Search", "ask", "run"]

Given = TypeVar("Given")
Result = TypeVar("Result")


class Outcome(NamedTuple):
    """What was found, and how long it took."""

    search: Search
    found: Recommendation
    seconds: float


@lru_cache(maxsize=1)
def _pool() -> SearchPool:
    return SearchPool()


def ask(work: Callable[[Given], Result], given: Given) -> Result:
    """Have a process of the server's pool do something shorter than a search. Raises PlannerError."""
    return _pool().ask(work, given)


def run(search: Search, place: DeltaGenerator) -> Outcome:
    """Search, with progress at `place`; any rerun of the page cancels what has not begun. Raises PlannerError."""
    begun = time.monotonic()
    box = place.empty()
    try:
        with box.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0, "Searching")
            st.button("Stop", key="stop", icon=":material/stop:")
        found = _pool().search(search, lambda done, total: bar.progress(done / total, f"{done} of {total} models"))
    finally:
        box.empty()
    return Outcome(search, found, time.monotonic() - begun)
