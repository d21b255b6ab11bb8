"""What a quality check costs beside the server's own time: `python -m tests.benchmarks.quality`.

overhead: 50 examples, 8 at once, against the shortest schedule of the times that the server itself took;
memory: peak of the command on 10,000 examples with two files, and with two endpoints;
kills: kill -9 at 20 random moments of one check, and what was asked twice;
cracks: share of checks of identical sides that crack.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.quality.verdict import Passes, judged
from planner.specs.quality import Verdict
from tests.quality.server import Server

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ("--baseline", "before.jsonl")


def examples(folder: Path, n: int, words: int = 0) -> None:
    filler = "lorem ipsum dolor sit amet " * (words // 5)
    with (folder / "mine.jsonl").open("w") as mine, (folder / "before.jsonl").open("w") as before:
        for i in range(n):
            row = {"id": f"e{i}", "prompt": f"{filler}say w{i}", "reference": f"echo w{i}", "tags": [f"t{i % 9}"]}
            mine.write(json.dumps(row) + "\n")
            before.write(json.dumps({"id": f"e{i}", "output": f"echo w{i}" + f" {filler}"}) + "\n")


def command(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    run = [sys.executable, "-m", "planner", "quality-check", "mine.jsonl", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(run, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def live(side: str, server: Server, at_once: int) -> tuple[str, ...]:
    return (f"--{side}", server.url, f"--{side}-model", "m", "--concurrency", str(at_once))


def shortest_s(times: Sequence[float], at_once: int) -> float:
    """When the last of these ends if each begins as soon as one of the others has ended."""
    ends = [0.0] * at_once
    for taken in times:
        heapq.heappush(ends, heapq.heappop(ends) + taken)
    return max(ends)


def overhead(folder: Path, delay_s: float) -> None:
    examples(folder, 50)
    with Server(delay_s) as server:
        journal, begun = ("--journal", f"j{delay_s}"), time.monotonic()
        process = command(folder, *BEFORE, *live("candidate", server, 8), *journal)
        assert process.wait() == 0
        whole_s, best_s = time.monotonic() - begun, shortest_s(server.times, 8)
        asking_s = server.last_s - server.first_s
        print(
            f"overhead, answers of {delay_s} s: server {best_s:.2f} s, first request to last answer {asking_s:.2f} s "
            f"(+{100 * (asking_s / best_s - 1):.1f} %), whole command {whole_s:.2f} s"
        )


def memory(folder: Path) -> None:
    examples(folder, 10_000, words=150)
    process = command(folder, *BEFORE, "--candidate", "before.jsonl", "--html", "r.html", "--csv", "r.csv")
    print(f"memory, two files of 10,000: {peak_mb(process):.0f} MB")
    with Server() as server:
        begun = time.monotonic()
        process = command(folder, *live("baseline", server, 32), *live("candidate", server, 32), "--journal", "two")
        peak = peak_mb(process)
        print(f"memory, two endpoints and 10,000 examples: {peak:.0f} MB, {time.monotonic() - begun:.0f} s")


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    process.returncode = 0
    return usage.ru_maxrss / 1024


def kills(folder: Path, at_once: int = 8) -> None:
    examples(folder, 400)
    rng, lost = random.Random(1), []
    with Server(0.05) as server:
        arguments = (*BEFORE, *live("candidate", server, at_once))
        for _ in range(20):
            answered = sum(server.asked.values())
            process = command(folder, *arguments)
            while sum(server.asked.values()) < answered + rng.randint(1, 20) and process.poll() is None:
                time.sleep(rng.uniform(0.001, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.2)
            kept = (folder / "mine.quality" / "candidate.jsonl").read_bytes().count(b"\n") - 1
            lost.append(sum(server.asked.values()) - sum(lost) - kept)
        assert command(folder, *arguments).wait() == 0
        twice = sum(server.asked.values()) - 400
    print(f"kills: 20, requests lost at each {min(lost)} to {max(lost)} of {at_once} in flight, asked twice {twice}")


def cracks(checks: int) -> None:
    for n, flips, repeats in ((50, 0.1, 1), (50, 0.4, 1), (200, 0.3, 1), (1000, 0.05, 1), (60, 0.5, 3), (300, 0.2, 5)):
        rng, found = np.random.default_rng(n), 0
        tags = [tuple(f"t{k}" for k in range(6) if i % (k + 2) == 0) for i in range(n)]
        for _ in range(checks):
            rate = np.where(rng.random(n) < 2 * flips, 0.5, 1.0)[:, None]
            a, b = (rng.random((n, repeats)) < rate for _ in range(2))
            pairs = [Passes(str(i), tags[i], tuple(a[i].tolist()), tuple(b[i].tolist())) for i in range(n)]
            found += judged(pairs, 0.02)[0] is Verdict.CRACKS
        print(f"cracks of identical sides: {100 * found / checks:.1f} % of {checks}, n {n}, {flips}, {repeats} answers")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for delay_s in (0.2, 1.0):
            overhead(folder, delay_s)
        kills(folder)
        memory(folder)
    cracks(1000)


if __name__ == "__main__":
    main()
