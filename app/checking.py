"""A quality check behind its page: the files that were brought, the process that asks, what came of it.

The page asks nothing itself: a process of its own does, so that others' pages stay quick and a check can be stopped.
On the user's own machine answers are kept in the data folder and a later run goes on from there; for visitors of a
network they go with the visit.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from platformdirs import user_data_path

from access import named_endpoints
from planner.cli import quality_job
from planner.cli.quality_job import Job
from planner.errors import BadFile, BadValue, PlannerError
from planner.quality.examples import TEMPLATE, read_answers, read_examples
from planner.quality.session import Settings

FILES, RUNNING, RESULT, FAULT, VISIT = "qc_files", "qc_running", "qc_result", "qc_fault", "qc_visit"
KINDS = {"examples": "Your examples", "baseline": "Answers before", "candidate": "Answers after"}
KEPT = "are kept"  # in a message: the check can go on
MOST_AT_ONCE = 2  # checks on one server
VISITOR_LIMIT_S = 900.0
VISITOR_AT_ONCE = 64
SAMPLES = TEMPLATE.with_name("quality_check_sample")

_log = logging.getLogger("planner")
_turn = threading.Lock()
_live: list[subprocess.Popen[bytes]] = []


class Brought(NamedTuple):
    """A file that was uploaded, what is in it in a line, or what is wrong with it."""

    name: str
    data: bytes
    said: str
    fault: str


class Running(NamedTuple):
    """A check on its way."""

    process: subprocess.Popen[bytes]
    folder: Path
    job: Job


class Result(NamedTuple):
    """A check that ended: its document and the files that go with it."""

    job: Job
    document: dict[str, Any]
    csv: bytes
    html: bytes
    answers: dict[str, bytes]  # of the sides that were asked, as files for another check


class _Visit:
    """A folder that goes when the visit does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="planner-check-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def brought(kind: str) -> Brought | None:
    """The file of a kind, if there is one."""
    files: dict[str, Brought] = st.session_state.setdefault(FILES, {})
    return files.get(kind)


def bring(kind: str, name: str, data: bytes) -> None:
    """Keep a file for this visit, read and checked."""
    name = _file_name(name, kind)
    said = fault = ""
    with tempfile.TemporaryDirectory(prefix="planner-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            said = _described(kind, path)
        except PlannerError as error:
            fault = str(error)
    st.session_state.setdefault(FILES, {})[kind] = Brought(name, data, said, fault)
    for outdated in (RESULT, FAULT):
        st.session_state.pop(outdated, None)


def _described(kind: str, path: Path) -> str:
    if kind != "examples":
        return f"{len(read_answers(path, kind)):,} answers"
    examples = read_examples(path)
    tags = sorted({tag for one in examples for tag in one.tags})
    shown = ", ".join(tags[:6]) + (f" and {len(tags) - 6} more" if len(tags) > 6 else "")
    return f"{len(examples):,} examples; tags: {shown or 'none'}"


def is_sample() -> bool:
    """Whether the examples are the template's, and no task of the user's own."""
    file = brought("examples")
    return file is not None and file.data == TEMPLATE.read_bytes()


def bring_sample() -> None:
    """For callbacks: the sample file with invented answers of both sides."""
    bring("examples", "sample.jsonl", TEMPLATE.read_bytes())
    for side in ("baseline", "candidate"):
        path = SAMPLES / f"{side}.jsonl"
        bring(side, f"sample-{path.name}", path.read_bytes())


def begin(settings: Settings, kinds: list[str], run_tests: bool, local: bool) -> None:
    """Start the check of the files of these kinds. Raises BadFile when this server has enough to do."""
    state = st.session_state
    files = {kind: file for kind in kinds if (file := brought(kind))}
    if not local:
        _check_visitor(settings, run_tests)
    folder, paths = _home(files, settings, local), _paths(files)
    for kind, file in files.items():
        (folder / kind).mkdir(exist_ok=True)
        (folder / paths[kind]).write_bytes(file.data)
    limits = {} if local else {"limit_s": VISITOR_LIMIT_S}
    whole = with_files(settings, kinds)
    job = Job(examples=paths["examples"], settings=whole, run_tests=run_tests, **limits)
    with _turn:
        _live[:] = [process for process in _live if process.poll() is None]
        if len(_live) >= MOST_AT_ONCE:
            raise BadFile(f"{MOST_AT_ONCE} checks run on this server already; try again when one has ended")
        process = quality_job.start(folder, job)
        _live.append(process)
    state[RUNNING] = Running(process, folder, job)
    state.pop(RESULT, None)
    state.pop(FAULT, None)


def _check_visitor(settings: Settings, run_tests: bool) -> None:
    """What the page does not offer to visitors is not done for them either, whatever their browser sends."""
    named = named_endpoints()
    asked = [url for url in (settings.baseline, settings.candidate, settings.judge) if url]
    if run_tests or any(url not in named for url in asked) or settings.concurrency > VISITOR_AT_ONCE:
        raise BadValue("this server does not do that for its visitors")


def with_files(settings: Settings, kinds: list[str]) -> Settings:
    """The settings with the files of the sides that are read rather than asked."""
    paths = _paths({kind: file for kind in kinds if kind != "examples" and (file := brought(kind))})
    return settings.model_copy(update=paths)


def _paths(files: dict[str, Brought]) -> dict[str, str]:
    return {kind: f"{kind}/{file.name}" for kind, file in files.items()}


def _home(files: dict[str, Brought], settings: Settings, local: bool) -> Path:
    """The folder of this very check: the same examples, sides and sampling come back to it."""
    asked = settings.model_dump(include={"baseline", "candidate", "temperature", "max_tokens", "seed"})
    models = settings.model_dump(include={"baseline_model", "candidate_model", "judge", "judge_model"})
    mark = hashlib.sha256(repr((asked, models)).encode())
    for kind, file in sorted(files.items()):
        mark.update(f"{kind} {file.name} {len(file.data)}".encode() + file.data)
    name = mark.hexdigest()[:24]
    if local:
        home = kept_in() / name
    else:
        if VISIT not in st.session_state:
            st.session_state[VISIT] = _Visit()
        visit = st.session_state[VISIT].folder
        for other in visit.iterdir():
            if other.name != name:
                shutil.rmtree(other, ignore_errors=True)
        home = visit / name
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadFile(f"{home.parent}: cannot be written ({error.strerror})") from None
    return home


def kept_in() -> Path:
    """Where checks of this machine's user are kept."""
    return user_data_path("llm-capacity-planner") / "quality_checks"


def stop() -> None:
    """For callbacks: end the process; what was answered is kept."""
    running: Running | None = st.session_state.get(RUNNING)
    if running:
        quality_job.stop(running.process)


def ended() -> bool:
    """Whether the check that ran has ended; its result, or what went wrong, is then in the session."""
    state = st.session_state
    running: Running | None = state.get(RUNNING)
    if running is None or running.process.poll() is None:
        return False
    del state[RUNNING]
    if running.process.stdin:
        running.process.stdin.close()
    document = quality_job.outcome(running.folder)
    if document is None:
        stopped = running.process.returncode == -signal.SIGTERM
        state[FAULT] = (
            f"Stopped. Answers so far {KEPT}; go on where it ended."
            if stopped
            else f"The check ended in a way that was not foreseen; the server's log says more. Answers so far {KEPT}."
        )
        if not stopped:
            _log.error((running.folder / quality_job.ERRORS).read_text("utf-8", "replace")[-4000:])
    elif "error" in document:
        state[FAULT] = str(document["error"])
    else:
        state[RESULT] = _result(running, document)
    return True


def _result(running: Running, document: dict[str, Any]) -> Result:
    folder = running.folder
    read = {name: (folder / name).read_bytes() for name in (quality_job.CSV, quality_job.HTML)}
    journals = {side: folder / quality_job.ANSWERS / f"{side}.jsonl" for side in ("baseline", "candidate")}
    answers = {side: path.read_bytes() for side, path in journals.items() if path.is_file()}
    return Result(running.job, document, read[quality_job.CSV], read[quality_job.HTML], answers)


def _file_name(name: str, kind: str) -> str:
    """The upload's own name as far as it is plain, so that messages name the file that the user knows."""
    stem, _, suffix = name.rpartition(".")
    plain = "".join(c for c in stem if c.isascii() and (c.isalnum() or c in "-_"))[:40] or kind
    return f"{plain}.{'csv' if suffix.lower() == 'csv' else 'jsonl'}"
