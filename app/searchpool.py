"""A server's processes for searches: bounded in number, time and queue, shared in turns, cancelled with the page.

`planner.workers` shares a single batch among processes that end with it; this pool stays for as long as the server.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple, ParamSpec, TypeVar

from planner.errors import BadValue
from planner.estimate import NO_LIBRARY, Library
from planner.estimate.evidence import folder_stamp
from planner.search import Recommendation, Space, Wish, follow_parent, judged, merged, sift, tasks
from planner.search.records import Sifted, Task
from planner.specs.scenario import Scenario

WORKERS = max((os.cpu_count() or 2) - 1, 1)  # a core is left to the pages
MOST_SEARCHES = 8  # at once, all sessions together
LIMIT_S = 300.0  # of one search
TOO_LONG = f"the search took longer than {LIMIT_S:.0f} s: choose fewer models, GPUs or formats"
AHEAD = 2  # models of one search that wait in the queue for every worker, so that others' come between
TICK_S = 0.5  # between two looks at a search that is not done
PROGRESS_S = 0.25  # between two reports of progress
TOGETHER = 12  # parts that a process puts together at a time
MODELS_PER_PROCESS = 2000  # after which a process is replaced by a new one
NICE = 19  # pages first

Progress = Callable[[int, int], object]
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Search(NamedTuple):
    """What is searched for."""

    load: Scenario
    space: Space
    wish: Wish
    library: Library = NO_LIBRARY  # models, GPUs, runs and checks of the session


def _begin() -> None:
    """In a new process: step back behind the pages, and end when the server ends."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    follow_parent()


class SearchPool:
    """A few processes for all searches of a server."""

    def __init__(self, workers: int = WORKERS, most: int = MOST_SEARCHES) -> None:
        self.workers, self.most, self.running = workers, most, 0
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None

    def search(self, asked: Search, progress: Progress) -> Recommendation:
        """Search; `progress` is called with the number of models done and of all, and ends the search by raising.

        Raises BadValue when too many searches run, or this one runs too long, and PlannerError for unknown names.
        """
        todo = deque(tasks(*asked))
        with self._turn():
            try:
                parts = self._sifted(asked, todo, progress)
                return self._submit(judged, asked.load, asked.wish, parts, asked.library).result(timeout=LIMIT_S)
            except BrokenProcessPool:
                self._replace()
                raise BadValue("the search was ended from outside; search again") from None
            except TimeoutError:
                raise BadValue(TOO_LONG) from None

    def ask(self, work: Callable[Given, Result], *given: Given.args, **more: Given.kwargs) -> Result:
        """Do other work than a search, in turn with searches. Raises BadValue as `search` does."""
        with self._turn():
            try:
                return self._submit(work, *given, **more).result(timeout=LIMIT_S)
            except BrokenProcessPool:
                self._replace()
                raise BadValue("the work was ended from outside; try again") from None
            except TimeoutError:
                raise BadValue(f"it took longer than {LIMIT_S:.0f} s: ask for less") from None

    def _sifted(self, asked: Search, todo: deque[Task], progress: Progress) -> list[Sifted]:
        """Every model, a few at a time; parts are put together in the processes, not in the server."""
        total, done, stamp = len(todo), 0, folder_stamp()
        begun = reported = time.monotonic()
        parts: list[Sifted] = []
        pending: set[Future[Sifted]] = set()
        merging: set[Future[Sifted]] = set()
        try:
            while todo or pending or merging:
                while todo and len(pending) < AHEAD * self.workers:
                    pending.add(self._submit(sift, todo.popleft(), stamp))
                if len(parts) >= TOGETHER:
                    merging.add(self._submit(merged, asked.wish, parts))
                    parts = []
                finished, _ = wait(pending | merging, TICK_S, FIRST_COMPLETED)
                done += len(finished & pending)
                parts += [future.result() for future in finished]
                pending, merging = pending - finished, merging - finished
                now = time.monotonic()
                if now - begun > LIMIT_S:
                    raise BadValue(TOO_LONG)
                if now - reported > PROGRESS_S or done == total:
                    reported = now
                    progress(done, total)
            return parts
        finally:
            for future in pending | merging:
                future.cancel()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self.running >= self.most:
                raise BadValue(f"{self.running} searches are running: wait until one of them ends, then search again")
            self.running += 1
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def _submit(self, work: Callable[Given, Result], *given: Given.args, **more: Given.kwargs) -> Future[Result]:
        with self._lock:
            if self._executor is None:
                context = multiprocessing.get_context("spawn")
                self._executor = ProcessPoolExecutor(
                    self.workers, context, initializer=_begin, max_tasks_per_child=MODELS_PER_PROCESS
                )
            return self._executor.submit(work, *given, **more)

    def _replace(self) -> None:
        """Forget processes that were killed; the next search starts new ones."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
