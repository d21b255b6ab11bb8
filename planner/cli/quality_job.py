"""A check in a process of its own, for the page: what is asked, how far it is and what came of it lie in one folder.

    python -m planner.cli.quality_job FOLDER

The process ends with whoever started it (its standard input ends) and after the job's limit; answers are in the
journals by then, so that the same job goes on from there. Keys come from the environment and into no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from planner.catalog.files import read_json, write_atomically
from planner.errors import PlannerError
from planner.quality.runner import Progress
from planner.quality.session import Settings, run
from planner.specs.base import Spec

JOB, PROGRESS, OUTCOME, ERRORS = "job.json", "progress.json", "outcome.json", "errors.txt"
CSV, HTML = "examples.csv", "report.html"
ANSWERS = "answers"  # the journals' folder
TOLD_EVERY_S = 0.3
GRACE_S = 5
MAX_OUTCOME_BYTES = 64 * 2**20


class Job(Spec):
    """What is asked: names of files are those in the folder."""

    examples: str
    settings: Settings
    run_tests: bool = False
    limit_s: Annotated[float, Field(gt=0)] = 7 * 86_400.0


class Count(NamedTuple):
    """How far one side is."""

    side: str
    done: int
    total: int
    failed: int


def start(folder: Path, job: Job) -> subprocess.Popen[bytes]:
    """Begin the job; an outcome of an earlier one goes."""
    for name in (PROGRESS, OUTCOME):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / JOB, job.model_dump_json())
    package = Path(__file__).resolve().parents[2]
    search = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    with (folder / ERRORS).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "planner.cli.quality_job", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": search},
            start_new_session=True,  # with all that it starts it can be ended; Ctrl-C at the server does so as well
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a job and what it started; its answers so far are kept."""
    if os.name == "posix" and process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()


def progress(folder: Path) -> list[Count]:
    """How far each side is; none that has not begun."""
    try:
        return [Count(*row) for row in json.loads((folder / PROGRESS).read_bytes())]
    except (OSError, ValueError):
        return []


def outcome(folder: Path) -> dict[str, Any] | None:
    """The check's document, or `{"error": line}`; None while there is neither."""
    path = folder / OUTCOME
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path, MAX_OUTCOME_BYTES)
    return found


def work(folder: Path) -> None:
    """Do the job of a folder."""
    job = Job.model_validate(read_json(folder / JOB))
    os.chdir(folder)
    try:
        document = _checked(job)
    except PlannerError as error:
        document = {"error": str(error)}
    write_atomically(OUTCOME, json.dumps(document))


def _checked(job: Job) -> dict[str, Any]:
    from planner.quality.check import EXAMPLE_COLUMNS, example_rows
    from planner.quality.document import document
    from planner.report import csv_text
    from planner.report.quality import html_report

    told = _Told()
    done = run(job.examples, job.settings.model_copy(update={"journal": ANSWERS}), job.run_tests, told.listener)
    write_atomically(HTML, html_report(done.check))
    write_atomically(CSV, csv_text(EXAMPLE_COLUMNS, example_rows(done.check)))
    return document(done.check, done.observations)


class _Told:
    """Progress of all sides in one file, written a few times a second."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}
        self.last_s = 0.0

    def listener(self, side: str) -> Progress:
        def tell(done: int, total: int, failed: int) -> None:
            self.counts[side] = Count(side, done, total, failed)
            if time.monotonic() - self.last_s > TOLD_EVERY_S or done + failed >= total:
                self.last_s = time.monotonic()
                write_atomically(PROGRESS, json.dumps(list(self.counts.values())))

        return tell


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    _end()


def _end_at_limit(folder: Path, limit_s: float) -> None:
    said = f"the check was ended after {limit_s / 60:.0f} minutes; go on where it ended, or take fewer examples"
    write_atomically(folder / OUTCOME, json.dumps({"error": said}))
    _end()


def _end() -> None:
    """At once, with all that was started from here."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(3)


def main(folder: str) -> None:
    """The process."""
    home = Path(folder).resolve()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_s = Job.model_validate(read_json(home / JOB)).limit_s
    timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), _end_at_limit, (home, limit_s))
    timer.daemon = True
    timer.start()
    if os.name == "posix":  # a pattern that never ends lets no other thread run, but this comes from the system
        signal.alarm(min(int(limit_s) + GRACE_S, 2**31 - 1))
    work(home)
    os._exit(0)  # nothing waits for the thread that reads


if __name__ == "__main__":
    main(sys.argv[1])
