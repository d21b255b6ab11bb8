"""A search with its progress on the page; it runs in the server's pool, so that the pages of others stay quick."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from planner.estimate import NO_LIBRARY
from planner.estimate.evidence import folder_stamp
from planner.estimate.quality import stored_checks
from planner.estimate.refine import stored
from planner.search import Recommendation
from searchpool import Search, SearchPool

__all__ = ["Outcome", "Search", "ask", "kept", "run"]

MOST_KEPT = 8  # outcomes, a few MB each

Given = TypeVar("Given")
Result = TypeVar("Result")


class Outcome(NamedTuple):
    """What was found, how long it took, and what was measured until then."""

    search: Search
    found: Recommendation
    seconds: float
    evidence: object


_last: deque[Outcome] = deque(maxlen=MOST_KEPT)


@lru_cache(maxsize=1)
def _pool() -> SearchPool:
    return SearchPool()


def ask(work: Callable[[Given], Result], given: Given) -> Result:
    """Have a process of the server's pool do something shorter than a search. Raises PlannerError."""
    return _pool().ask(work, given)


def kept(search: Search) -> Outcome | None:
    """What the same search found on this server shortly before: a reload and a colleague with the link see it again.

    Not with uploads, which are one session's own, nor after another run, check or observation came in. Other
    sessions' searches may end while it looks.
    """
    evidence = _evidence()
    return next((one for one in tuple(_last) if one.search == search and one.evidence == evidence), None)


def _evidence() -> object:
    return folder_stamp(), stored_checks(), stored()


def run(search: Search, place: DeltaGenerator) -> Outcome:
    """Search, with progress at `place`; any rerun of the page cancels what has not begun. Raises PlannerError."""
    begun, evidence = time.monotonic(), _evidence()
    box = place.empty()
    try:
        with box.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0, "Searching")
            st.button("Stop", key="stop", icon=":material/stop:")
        found = _pool().search(search, lambda done, total: bar.progress(done / total, f"{done} of {total} models"))
    finally:
        box.empty()
    outcome = Outcome(search, found, time.monotonic() - begun, evidence)
    if search.library == NO_LIBRARY:
        _last.appendleft(outcome)
    return outcome
