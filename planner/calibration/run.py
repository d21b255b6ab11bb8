"""One run on one GPU: the suite in random order, every point journalled, one file at the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from planner import __version__
from planner.calibration.budget import Remaining, expected_s
from planner.calibration.cases import Case
from planner.calibration.journal import Header, Journal
from planner.calibration.suite import ordered
from planner.calibration.timing import FULL, QUICK, Device, Fault, Rule, faulty, measure
from planner.catalog.runs import run_path, sealed, write_run
from planner.errors import BadValue
from planner.specs.run import Environment, Mode, Point, Run

JOURNALS = ".journal"
NEVER_BACK = "this kernel did not come back at one of its shapes, and its process was ended"


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    total: int
    label: str
    left_s: float | None = None  # None: not known yet


class Plan(NamedTuple):
    """What is to be measured, on what, and where it goes."""

    gpu: str  # id of the profile
    environment: Environment
    mode: Mode
    cases: Sequence[Case]
    anchor: Case
    folder: Path
    extra: tuple[Point, ...] = ()  # measured elsewhere: collectives among several GPUs
    hung: frozenset[int] = frozenset()  # positions of points that never came back; their kernels are left out


def rule_of(mode: Mode) -> Rule:
    """How long each point is measured."""
    return QUICK if mode is Mode.QUICK else FULL


def journal_path(folder: Path, environment: Environment) -> Path:
    """One journal per card: a second run of the same card goes on or starts anew."""
    return folder / JOURNALS / f"{environment.device_token}.jsonl"


def header(plan: Plan, now: datetime) -> Header:
    """A new run's name and order. The name holds the time and a few random letters, nothing of the machine."""
    stamp = now.astimezone(UTC)
    return Header(
        id=f"{stamp:%Y%m%dt%H%M%Sz}-{secrets.token_hex(3)}",
        gpu=plan.gpu,
        created=f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        planner_version=__version__,
        mode=plan.mode,
        seed=secrets.randbelow(2**31),
        environment=plan.environment,
    )


def opened(plan: Plan, resume: bool, now: datetime) -> Journal:
    """The journal of this run. Raises BadValue when `resume` finds one of another machine state or mode."""
    path = journal_path(plan.folder, plan.environment)
    old = Journal.reopen(path) if resume else None
    if old is None:
        return Journal.start(path, header(plan, now))
    if not old.header.same_machine(plan.environment) or old.header.mode != plan.mode:
        raise BadValue("the interrupted run is of another mode, driver, torch or power limit; run without --resume")
    return old


def calibrate(
    plan: Plan,
    device: Device,
    journal: Journal,
    progress: Callable[[Progress], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> Run:
    """Measure what the journal does not hold yet. Returns the whole run, sealed, the journal being left in place.

    Raises Fault when the device is lost: another process goes on from the journal.
    """
    order = ordered(plan.cases, plan.anchor, journal.header.seed)
    rule, hung = rule_of(plan.mode), {order[position].kernel for position in plan.hung}
    done = {point.order for point in journal.points}
    remaining = Remaining([0.0 if at in done else expected_s(case, device, rule) for at, case in enumerate(order)])
    progress(Progress(0, len(order), "measuring", remaining.s(0)))
    for position, case in enumerate(order):
        if position not in done:
            try:
                if case.kernel in hung:
                    journal.add(faulty(case, position, Fault(NEVER_BACK)))
                else:
                    journal.add(measure(device, case, rule, position, pause))
            except Fault as fault:
                journal.add(faulty(case, position, fault))
                raise
        label = f"{case.family} {case.kernel}"
        progress(Progress(position + 1, len(order), label, remaining.s(position + 1)))
    last = len(order)
    extra = [point.model_copy(update={"order": last + i}) for i, point in enumerate(plan.extra)]
    run = so_far(journal)
    environment = run.environment.model_copy(update={"after": device.health()})
    return sealed(run.model_copy(update={"environment": environment, "points": (*run.points, *extra)}))


def so_far(journal: Journal) -> Run:
    """What a journal holds, as a run, whether or not it came to its end."""
    points = tuple(sorted(journal.points, key=lambda point: point.order))
    return sealed(Run(**journal.header.model_dump(exclude={"seed"}), points=points))


def finish(run: Run, folder: Path, journal: Journal) -> Path:
    """Write the run unless a crash came right after that, then forget its journal.

    Raises BadFile when the disk does not take it; the journal stays.
    """
    path = run_path(run, folder)
    if not path.exists():
        write_run(run, folder)
    journal.drop()
    return path
