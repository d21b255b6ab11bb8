"""Calibration of this machine's GPUs: one child process per GPU, one run at a time on each.

The parent finds the GPUs, refuses busy ones and shows progress; a child owns one GPU, so that a fault of a
kernel ends a run and not the program. Points are journalled by the child as they come.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from planner.calibration.collectives import SIZES, SIZES_QUICK, Group, measure_group, sizes_of_groups
from planner.calibration.environment import Card, Driver, Missing, TorchBuild, check_installed, device_token, nvml
from planner.calibration.profile import describe, write_profile
from planner.calibration.run import JOURNALS, Plan, Progress, calibrate, finish, opened
from planner.calibration.suite import anchor, cases
from planner.calibration.timing import Fault
from planner.catalog.files import made_folder
from planner.catalog.runs import user_dir
from planner.errors import BadFile, BadValue, PlannerError
from planner.specs.run import Mode, Point

VISIBLE = "CUDA_VISIBLE_DEVICES"
BUSY_LOOKS, BUSY_PAUSE_S = 3, 1.0
MOST_FAULTS = 8  # kernels that may take the device down in one run
MOST_SILENT_S = 180.0  # of a child: importing torch takes a minute on a slow disk, a point a few seconds
GONE = "the process that measured ended without a word (out of host memory, or a fault of the driver)"


class Wish(NamedTuple):
    """What the user asked for, and what a child learns of those before it."""

    mode: Mode
    folder: Path
    resume: bool = False
    force: bool = False
    extra: tuple[Point, ...] = ()
    hung: frozenset[int] = frozenset()  # positions of points that never came back
    bundled: bool = False  # kernels alone: no torch


class Silent(Fault):
    """A child that says nothing any more: a kernel hangs."""

    def __init__(self, position: int) -> None:
        super().__init__(f"nothing was heard for {MOST_SILENT_S:.0f} s")
        self.position = position


class Machine(NamedTuple):
    """This machine, as far as it can be calibrated."""

    driver: Driver
    build: TorchBuild
    cards: list[Card]


def machine(wanted: tuple[int, ...] = (), bundled: bool = False) -> Machine:
    """The GPUs to measure; for `bundled` kernels alone without torch.

    Raises Missing, with the one thing to do, and BadValue for a GPU that is not there.
    """
    driver = Driver(nvml())
    build = check_installed(bundled=bundled)
    cards = allowed(driver.cards(), os.environ.get(VISIBLE))
    for number in wanted:
        if not any(card.number == number for card in cards):
            raise BadValue(f"GPU {number}: this machine has {', '.join(str(card.number) for card in cards)}")
    return Machine(driver, build, [card for card in cards if not wanted or card.number in wanted])


def allowed(cards: list[Card], visible: str | None) -> list[Card]:
    """Those that `CUDA_VISIBLE_DEVICES` leaves to us, by UUID or number. Raises Missing where it hides all."""
    if visible is None:
        return cards
    names = [name.strip() for name in visible.split(",") if name.strip()]
    found = [card for card in cards if any(name == str(card.number) or card.uuid.startswith(name) for name in names)]
    if not found:
        raise Missing(f"{VISIBLE} hides every GPU of this machine")
    return found


def refuse_busy(found: Machine, force: bool, pause: Callable[[float], None] = time.sleep) -> None:
    """Raises BadValue for a GPU that others use, unless told to measure it anyway.

    The driver's utilization is that of the last second: a process that has just ended still shows in it.
    """
    for card in found.cards:
        why = found.driver.busy(card)
        for _ in range(0 if force else BUSY_LOOKS):
            if why:
                pause(BUSY_PAUSE_S)
                why = found.driver.busy(card)
        if why and not force:
            raise BadValue(f"GPU {card.number} ({card.name}) is in use: {why}; --force measures it anyway")


@contextlib.contextmanager
def locked(folder: Path, token: str) -> Iterator[None]:
    """The only run on this card; a dead one's lock is free.

    Raises BadValue that names the process of the other, BadFile where the folder takes no files.
    """
    home = made_folder(folder / JOURNALS)
    owner = home / f"{token}.pid"
    lock = FileLock(home / f"{token}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = owner.read_text("utf-8")[:20] if owner.is_file() else "unknown"
        raise BadValue(f"this GPU is being calibrated by process {pid}") from None
    except OSError as error:
        raise BadFile(f"{home}: cannot be written ({error.strerror}); --runs-dir names another folder") from None
    try:
        with contextlib.suppress(OSError):
            owner.write_text(str(os.getpid()), "utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def collective_points(found: Machine, quick: bool) -> tuple[Point, ...]:
    """Collectives among 2, 4, 8 ... of the GPUs; nothing where there is one, or instances of one."""
    cards = [card for card in found.cards if card.mig is None]
    sizes = SIZES_QUICK if quick else SIZES
    groups = [Group(n, uuids=tuple(card.uuid for card in cards)) for n in sizes_of_groups(len(cards))]
    return tuple(point for group in groups for point in measure_group(group, sizes))


# The child.


def measure_card(card_number: int, wish: Wish, tell: Callable[[Progress], None]) -> Path:
    """Calibrate one card in this process: the whole way from the driver to the file."""
    found = machine((card_number,), wish.bundled)
    card = found.cards[0]
    os.environ[VISIBLE] = card.uuid
    token = device_token(card.uuid, user_dir())
    with locked(wish.folder, token):
        from planner.calibration.gpu import CudaDevice

        environment = found.driver.environment(card, found.build, token)
        described = describe(card, found.driver)
        if described.document:
            write_profile(described.document)
        device = CudaDevice(found.driver, card, described.spec, wish.bundled)
        able, environment = device.able, device.completed(environment)
        suite, repeated = cases(able, wish.mode), anchor(able, wish.mode)
        tell(Progress(0, len(suite), "compiling kernels"))
        device.compile(suite)
        plan = Plan(described.spec.id, environment, wish.mode, suite, repeated, wish.folder, wish.extra, wish.hung)
        journal = opened(plan, wish.resume, datetime.now(UTC))
        run = calibrate(plan, device, journal, tell)
        return finish(run, wish.folder, journal)


def _child(pipe: Connection, card_number: int, wish: Wish) -> None:
    try:
        pipe.send(measure_card(card_number, wish, pipe.send))
    except PlannerError as error:
        pipe.send(str(error))
    except Fault as error:
        pipe.send(error)
    except KeyboardInterrupt:  # of which the parent knows as well
        pipe.send("interrupted")


def in_child(card_number: int, wish: Wish, show: Callable[[Progress], None]) -> Path:
    """Calibrate one card in a process of its own, in further ones where a kernel takes the device down.

    Raises PlannerError with what the child said.
    """
    for _ in range(MOST_FAULTS):
        found = _one_child(card_number, wish, show)
        if isinstance(found, Path):
            return found
        hung = wish.hung | {found.position} if isinstance(found, Silent) else wish.hung
        wish = wish._replace(resume=True, hung=hung)
    raise PlannerError(f"GPU {card_number}: {MOST_FAULTS} kernels took the device down, the last: {found}")


def _silent(card_number: int, position: int | None) -> Silent:
    """Which point a silent child is at. Raises PlannerError for one that never came to measure."""
    if position is None:
        raise PlannerError(f"GPU {card_number}: nothing was heard for {MOST_SILENT_S:.0f} s while it started")
    return Silent(position)


def _one_child(card_number: int, wish: Wish, show: Callable[[Progress], None]) -> Path | Fault:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, card_number, wish), daemon=True)
    process.start()
    theirs.close()
    position: int | None = None  # of the point that is being measured
    try:
        while True:
            try:
                if not ours.poll(MOST_SILENT_S):
                    process.kill()
                    return _silent(card_number, position)
                message = ours.recv()
            except EOFError:
                raise PlannerError(f"GPU {card_number}: {GONE}; --resume goes on") from None
            if isinstance(message, Path | Fault):
                return message
            if isinstance(message, str):
                raise PlannerError(f"GPU {card_number}: {message}")
            position = position if message.left_s is None else message.done
            show(message)
    finally:
        process.join(timeout=10)
        if process.is_alive():
            process.terminate()
