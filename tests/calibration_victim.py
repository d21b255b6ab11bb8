"""A calibration on a fake GPU that can be killed: `python -m tests.calibration_victim FOLDER KILLS`.

Forks KILLS children that resume the run in FOLDER, kills each after a random moment, and lets the last one finish.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from planner.calibration.journal import Journal
from planner.calibration.run import Plan, calibrate, finish, opened
from planner.calibration.suite import anchor, cases
from planner.catalog import runs
from planner.specs.run import Environment, Mode, Run
from tests.fake_gpu import FakeDevice

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
MACHINE = Environment(gpu_name="NVIDIA H200", device_token="0123456789abcdef", driver="580.95.05", torch="2.13.0")
LONGEST_S = 0.12


def plan(folder: Path, points: int = 40) -> Plan:
    device = FakeDevice()
    suite = cases(device.able, Mode.QUICK)[:points]
    return Plan("h200-sxm", MACHINE, Mode.QUICK, suite, anchor(device.able, Mode.QUICK), folder)


def go_on(folder: Path, points: int = 40) -> Run:
    """Resume the run, or start it, and bring it to its end."""
    wish = plan(folder, points)
    journal = opened(wish, True, NOW)
    run = calibrate(wish, FakeDevice(), journal, pause=lambda seconds: None)
    finish(run, folder, journal)
    return run


def intact(folder: Path) -> bool:
    """Whether a reader sees whole files only."""
    journals = [Journal.reopen(path) for path in (folder / ".journal").glob("*.jsonl")]
    sizes = [len(journal.points) for journal in journals if journal]
    return not runs.stored_runs(folder).damaged and all(size >= 0 for size in sizes)


def main(folder: Path, kills: int) -> None:
    seen = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            go_on(folder)
            os._exit(0)
        time.sleep(random.uniform(0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not intact(folder):
            sys.exit("a torn file was seen")
        seen += len(runs.stored_runs(folder).runs)
    if not runs.stored_runs(folder).runs:
        go_on(folder)
    print(f"{kills} kills, {len(runs.stored_runs(folder).runs)} runs, {seen} times a finished one was seen")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
