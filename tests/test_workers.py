"""Work shared among processes: in order, done whatever happens to a worker, and no script is run twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from planner import Estimate, estimate
from planner.specs.scenario import Scenario
from planner.workers import mapped

ROOT = Path(__file__).resolve().parent.parent
UNGUARDED = """
from planner.workers import mapped
print("begins")
print(list(mapped(abs, [-3, 4, -5], 2)))
"""


def slow_square(number: int) -> tuple[int, int]:
    time.sleep(0.05)
    return number**2, os.getpid()


def killed_elsewhere(home: int) -> int:
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return home


def test_results_come_in_order_from_several_processes() -> None:
    found = list(mapped(slow_square, range(60), 3))
    assert [square for square, _ in found] == [number**2 for number in range(60)]
    assert len({process for _, process in found}) > 1


def test_what_a_killed_worker_had_is_done_here() -> None:
    assert list(mapped(killed_elsewhere, [os.getpid()] * 60, 2)) == [os.getpid()] * 60


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


def unhurried(scenario: Scenario) -> tuple[Estimate, int]:
    time.sleep(0.05)
    return estimate(scenario), os.getpid()


def test_an_estimate_from_another_process_is_the_same() -> None:
    scenario = Scenario(model="qwen3-32b", gpu="h100-sxm", concurrency=3)
    found = {process: answer for answer, process in mapped(unhurried, [scenario] * 60, 2)}
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
