"""The server's pool of searches: the same answer as at once, bounded, told of, cancelled, and alive after a crash."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.errors import BadValue, PlannerError
from planner.search import Space, Wish, recommend
from planner.specs.scenario import Scenario

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))
import searching
from searchpool import Search, SearchPool

NAMES = tuple(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B"))
ASKED = Search(Scenario(concurrency=8), Space(models=NAMES, gpus=("l4",)), Wish())


class Enough(Exception):
    """Raised by whoever has seen enough."""


@pytest.fixture(scope="module")
def pool() -> Iterator[SearchPool]:
    found = SearchPool(workers=1, most=2)
    yield found
    found.close()


def quiet(done: int, total: int) -> None:
    """Hear of progress and do nothing."""


def test_the_pool_finds_what_a_search_finds(pool: SearchPool) -> None:
    told: list[tuple[int, int]] = []
    found = pool.search(ASKED, lambda done, total: told.append((done, total)))
    assert found == recommend(*ASKED)
    assert told[-1] == (len(NAMES), len(NAMES))


def test_whoever_hears_of_progress_can_end_the_search(pool: SearchPool) -> None:
    def stop(done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        pool.search(ASKED, stop)
    assert pool.running == 0
    assert pool.search(ASKED, quiet).candidates


def test_searches_beyond_the_most_are_refused_at_once(pool: SearchPool) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        inside.set()
        leave.wait(30)

    threads = [threading.Thread(target=pool.search, args=(ASKED, hold)) for _ in range(pool.most)]
    for thread in threads:
        thread.start()
    try:
        assert inside.wait(60)
        while pool.running < pool.most:
            time.sleep(0.01)
        with pytest.raises(BadValue, match="2 searches are running"):
            pool.search(ASKED, quiet)
    finally:
        leave.set()
        for thread in threads:
            thread.join()
    assert pool.running == 0


def test_an_unknown_name_is_said_before_anything_starts(pool: SearchPool) -> None:
    with pytest.raises(PlannerError, match="unknown GPU"):
        pool.search(ASKED._replace(space=Space(gpus=("h10",))), quiet)


def test_a_search_that_takes_too_long_is_ended(pool: SearchPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchpool.LIMIT_S", 0.0)
    with pytest.raises(BadValue, match="took longer"):
        pool.search(ASKED, quiet)


def test_a_process_that_is_killed_is_replaced(pool: SearchPool) -> None:
    def kill(done: int, total: int) -> None:
        executor: Any = pool._executor
        for number in list(executor._processes):
            os.kill(number, signal.SIGKILL)

    with pytest.raises(BadValue, match="ended from outside"):
        pool.search(ASKED._replace(space=Space(models=NAMES * 3, gpus=("l4",))), kill)
    assert pool.search(ASKED, quiet).candidates


def test_a_search_that_ends_while_another_is_looked_up_does_not_disturb_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meanwhile:
        def __eq__(self, other: object) -> bool:
            last.appendleft(last[0])
            return False

    other: Any = Meanwhile()
    nothing: Any = None
    last = deque([searching.Outcome(other, nothing, 1.0, nothing)] * 2, maxlen=8)
    monkeypatch.setattr(searching, "_last", last)
    assert searching.kept(ASKED) is None
