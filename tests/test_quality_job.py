"""A check in a process of its own: it goes on, ends with who started it, and never outlasts its limit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("scipy")
pytest.importorskip("jsonschema")

from quality.server import KEY, Server

from planner.cli import quality_job
from planner.cli.quality_job import Count, Job
from planner.quality.session import Settings
from tests.quality.files import lines

N = 12


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(delay_s=0.2) as one:
        yield one


def begun(folder: Path, server: Server, **more: Any) -> subprocess.Popen[bytes]:
    lines(folder / "mine.jsonl", [{"id": f"e{i}", "prompt": f"say w{i}", "reference": f"echo w{i}"} for i in range(N)])
    lines(folder / "before.jsonl", [{"id": f"e{i}", "output": f"echo w{i}"} for i in range(N)])
    settings = {"baseline": "before.jsonl", "candidate": server.url, "candidate_model": "m", "concurrency": 1}
    job = {"examples": "mine.jsonl", "settings": Settings.model_validate(settings), **more}
    return quality_job.start(folder, Job.model_validate(job))


def test_a_job_says_how_far_it_is_and_what_came_of_it(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANNER_CANDIDATE_API_KEY", KEY)
    server.key = KEY
    with begun(tmp_path, server) as process:
        assert process.wait(60) == 0
    assert quality_job.progress(tmp_path) == [Count("candidate", N, N, 0)]
    found = quality_job.outcome(tmp_path)
    assert found is not None and found["parts"][0]["examples"] == N and found["verdict"] == "cannot tell"
    assert (tmp_path / quality_job.CSV).is_file() and (tmp_path / quality_job.HTML).is_file()
    assert all(KEY not in path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", ["stopped", "alone"])
def test_a_job_that_is_ended_goes_on_where_it_was(tmp_path: Path, server: Server, way: str) -> None:
    with begun(tmp_path, server) as process:
        while sum(server.asked.values()) < 4:
            assert process.poll() is None
        if way == "stopped":
            quality_job.stop(process)
        elif process.stdin:
            process.stdin.close()  # as when the server ends
        assert process.wait(10) < 0
    assert quality_job.outcome(tmp_path) is None
    with begun(tmp_path, server) as process:
        assert process.wait(60) == 0
    assert sum(server.asked.values()) <= N + 1


def test_a_job_ends_at_its_limit(tmp_path: Path, server: Server) -> None:
    server.delay_s = 30.0
    with begun(tmp_path, server, limit_s=2.0) as process:
        assert process.wait(30) != 0
    found = quality_job.outcome(tmp_path)
    assert found is not None and "was ended after" in found["error"]


def test_a_pattern_that_never_ends_does_not_outlast_the_limit(tmp_path: Path, server: Server) -> None:
    job = Job(examples="mine.jsonl", settings=Settings.model_validate({}), limit_s=2.0)
    schema = {"type": "array", "items": {"pattern": "^(a+)+$"}}
    lines(tmp_path / "mine.jsonl", [{"id": f"e{i}", "prompt": "?", "schema": schema} for i in range(N)])
    lines(tmp_path / "said.jsonl", [{"id": f"e{i}", "output": json.dumps(["a" * 60 + "b"])} for i in range(N)])
    both = job.settings.model_copy(update={"baseline": "said.jsonl", "candidate": "said.jsonl"})
    with quality_job.start(tmp_path, job.model_copy(update={"settings": both})) as process:
        assert process.wait(40) < 0


def test_a_fault_is_a_line(tmp_path: Path, server: Server) -> None:
    server.faults = {f"w{i}": ("404", -1) for i in range(N)}
    with begun(tmp_path, server) as process:
        assert process.wait(60) == 0
    found = quality_job.outcome(tmp_path)
    assert found is not None and found["error"].startswith(f"candidate: {server.url}: HTTP 404")
