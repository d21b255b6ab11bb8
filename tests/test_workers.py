"""Work shared among processes: in order, done whatever happens to a worker, and no script is run twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from planner import Estimate, estimate
from planner.search import Space, Wish, recommend
from planner.specs.scenario import Scenario
from planner.workers import mapped

ROOT = Path(__file__).resolve().parent.parent
UNGUARDED = """
from planner.workers import mapped
print("begins")
print(list(mapped(abs, [-3, 4, -5], 2)))
"""


class Meeting(NamedTuple):
    """What lets this process wait until another one has begun an item."""

    home: int
    marker: Path
    number: int = 0

    def wait(self) -> bool:
        """Whether this is the other process."""
        away = os.getpid() != self.home
        if away:
            self.marker.touch()
        while not self.marker.exists():
            time.sleep(0.01)
        return away


@pytest.fixture
def meetings(tmp_path: Path) -> list[Meeting]:
    return [Meeting(os.getpid(), tmp_path / "marker", number) for number in range(20)]


def square(one: Meeting) -> tuple[int, int]:
    one.wait()
    return one.number**2, os.getpid()


def killed_elsewhere(one: Meeting) -> int:
    if one.wait():
        os.kill(os.getpid(), signal.SIGKILL)
    return one.number


def test_results_come_in_order_from_several_processes(meetings: list[Meeting]) -> None:
    found = list(mapped(square, meetings, 2))
    assert [square for square, _ in found] == [number**2 for number in range(20)]
    assert len({process for _, process in found}) == 2


def test_what_a_killed_worker_had_is_done_here(meetings: list[Meeting]) -> None:
    assert list(mapped(killed_elsewhere, meetings, 2)) == list(range(20))


def test_a_function_that_cannot_be_sent_runs_here() -> None:
    assert list(mapped(lambda number: number + 1, [1, 2, 3], 2)) == [2, 3, 4]


def test_a_fault_is_met_by_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(mapped(divmod_by_zero, range(3), 2))


def divmod_by_zero(number: int) -> tuple[int, int]:
    return divmod(number, 0)


def test_a_script_without_a_guard_is_run_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "begins\n[3, 4, 5]\n" and not done.stderr


def estimated(one: Meeting) -> tuple[int, Estimate]:
    one.wait()
    return os.getpid(), estimate(Scenario(model="qwen3-32b", gpu="h100-sxm", concurrency=3))


def test_an_estimate_from_another_process_is_the_same(meetings: list[Meeting]) -> None:
    found = dict(mapped(estimated, meetings, 2))
    assert len(found) == 2
    np.testing.assert_equal(*[answer.rows() for answer in found.values()])


def test_a_long_batch_is_the_same_however_many_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["planner.estimate"], "LONG", 2)
    monkeypatch.setattr(sys.modules["planner.estimate.batch"], "GROUP_ROWS", 7)
    names = ("qwen3-32b", "llama-3.1-8b", "nobody")
    asked = [Scenario(model=names[n % 3], gpu="h100-sxm", concurrency=1 + n) for n in range(40)]
    alone, shared = (estimate(asked, processes=n) for n in (1, 2))
    assert [one.concurrency for one in shared.scenarios] == [one.concurrency for one in asked]
    assert alone.scenarios == shared.scenarios and shared.error[2].startswith("unknown model")
    np.testing.assert_array_equal(alone.tpot_ms, shared.tpot_ms)
    np.testing.assert_array_equal(alone.high["e2e_ms"], shared.high["e2e_ms"])


def test_a_search_is_the_same_however_many_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load, space = Scenario(concurrency=8), Space(models=("qwen3-8b", "qwen3-32b", "phi-4"), gpus=("l40s",), counts=(1,))
    alone = recommend(load, space, Wish())
    monkeypatch.setattr(sys.modules["planner.search.recommend"], "LONG", 1)
    monkeypatch.setattr(sys.modules["planner.search.recommend"], "usable", lambda: 2)
    assert recommend(load, space, Wish()) == alone
