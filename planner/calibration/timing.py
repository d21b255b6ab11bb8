"""How one point is measured: cold buffers, graphs, medians, and gates that a wrong measurement does not pass.

A device loads a case with several copies of its cold operands; a graph of calls that rotate through them is
replayed. What is faster than the hardware allows was read from a cache: it is measured again with more copies
and finally rejected. What is slowed down by heat or by another process is measured again after a pause.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from planner.calibration.cases import Case, halved
from planner.calibration.environment import BUSY_BYTES, SPOILING
from planner.specs.run import Flag, Health, Point, Status, Timing, redacted

LIMIT = 1.02  # times what the hardware can at most
SPREAD = 1.10  # p90 over median from which a point is doubtful
CLOCK_DROP = 0.10
TIMES_L2 = 3  # bytes that a rotation touches; 2 are needed, one more for what the cache keeps at random
ATTEMPTS = 3
MOST_COPIES, MOST_CALLS = 4096, 4096
HALVINGS = 8
PAUSE_S = 2.0
SPOILT = frozenset({Flag.ABOVE_LIMIT, Flag.THROTTLED, Flag.BUSY})  # what a point is rejected for
AGAIN = SPOILT | {Flag.SPREAD}  # what another attempt may mend; clocks under a power limit drop every time
GUESSES = 3  # of how many calls make a graph long enough: the first mostly sees how long a graph takes to start


class OutOfMemory(Exception):
    """The device cannot hold a case with so many copies."""


class Unsupported(Exception):
    """The kernel does not run here."""


class Fault(Exception):
    """The device answers nothing any more in this process."""


class LoadedCase(Protocol):
    """A case on the device, ready to run."""

    def seconds(self, calls: int, replays: int) -> Sequence[float]:
        """Seconds per call, one figure per replay of a graph of `calls` calls; warm-ups are the load's own."""


class Device(Protocol):
    """A GPU, or what stands for one in a test."""

    l2_bytes: int

    def load(self, case: Case, copies: int) -> LoadedCase:
        """Raises OutOfMemory and Unsupported."""

    def health(self) -> Health:
        """The driver's view, now."""

    def limit_s(self, case: Case) -> float:
        """The least time that the hardware could need."""

    def free(self) -> None:
        """Give back what the last load held."""


class Rule(NamedTuple):
    """How long to measure."""

    graph_s: float = 400e-6  # a replay lasts at least this: its own start adds 2 to 4 us
    total_s: float = 20e-3
    fewest_replays: int = 7
    most_replays: int = 50


FULL, QUICK = Rule(), Rule(total_s=6e-3, fewest_replays=5)


class Sample(NamedTuple):
    """One attempt."""

    timing: Timing
    health: Health
    flags: tuple[Flag, ...]


def copies_for(case: Case, l2_bytes: int) -> int:
    """Sets of cold operands so that a rotation touches TIMES_L2 times the cache; 1 where nothing is cold."""
    if case.cold_bytes <= 0:
        return 1
    return min(MOST_COPIES, math.ceil(TIMES_L2 * l2_bytes / case.cold_bytes) + 1)


def _loaded(device: Device, case: Case, copies: int) -> tuple[LoadedCase, Case, int, tuple[Flag, ...]]:
    """The case on the device: with fewer copies, then smaller, when memory does not suffice."""
    flags: tuple[Flag, ...] = ()
    for _ in range(HALVINGS):
        while copies > 1:
            try:
                return device.load(case, copies), case, copies, flags
            except OutOfMemory:
                device.free()
                copies //= 2
        try:
            return device.load(case, 1), case, 1, flags
        except OutOfMemory:
            device.free()
            smaller = halved(case)
            if smaller is None:
                raise
            case, flags, copies = smaller, (Flag.REDUCED,), copies_for(smaller, device.l2_bytes)
    raise OutOfMemory


def calls_for(one_s: float, copies: int, rule: Rule) -> int:
    """Calls of a graph that lasts long enough: whole rotations."""
    return min(MOST_CALLS, copies * max(1, math.ceil(rule.graph_s / (copies * one_s))))


def replays_for(graph_s: float, rule: Rule) -> int:
    """Replays of a graph that lasts `graph_s`."""
    return int(np.clip(math.ceil(rule.total_s / graph_s), rule.fewest_replays, rule.most_replays))


def _timing(load: LoadedCase, copies: int, rule: Rule) -> Timing:
    calls = copies
    for _ in range(GUESSES):
        one = float(np.median(load.seconds(calls, 1)))
        calls = calls_for(one, copies, rule)
    replays = replays_for(calls * one, rule)
    seconds = np.asarray(load.seconds(calls, replays))
    low, middle, high = (float(value) for value in np.quantile(seconds, [0.1, 0.5, 0.9]))
    return Timing(median_s=middle, p10_s=low, p90_s=high, reps=replays, calls=calls, copies=copies)


def _flags(device: Device, case: Case, timing: Timing, states: tuple[Health, Health]) -> tuple[Flag, ...]:
    before, after = states
    dropped = before.sm_mhz and after.sm_mhz and after.sm_mhz < (1 - CLOCK_DROP) * before.sm_mhz
    cold = case.cold_bytes * timing.copies
    found = {
        Flag.ABOVE_LIMIT: timing.median_s * LIMIT < device.limit_s(case),
        Flag.THROTTLED: bool(SPOILING & set(after.throttle)),
        Flag.BUSY: (after.others_bytes or 0) > BUSY_BYTES,
        Flag.SPREAD: timing.p90_s > SPREAD * timing.median_s,
        Flag.CLOCK_DROP: bool(dropped),
        Flag.HOT: 0 < cold < 2 * device.l2_bytes,
    }
    return tuple(flag for flag, holds in found.items() if holds)


def measure(
    device: Device, case: Case, rule: Rule = FULL, order: int = 0, pause: Callable[[float], None] = time.sleep
) -> Point:
    """One point, whatever becomes of it: measured, rejected, too large, or not supported."""
    actual = case
    try:
        load, actual, copies, reduced = _loaded(device, case, copies_for(case, device.l2_bytes))
        sample, attempts = _calm(device, load, actual, (copies, rule, pause))
    except OutOfMemory:
        return _point(case, order, {"status": Status.DID_NOT_FIT})
    except Unsupported as error:
        return _point(case, order, {"status": Status.FAILED, "note": plain(str(error))})
    finally:
        device.free()
    found = {
        "status": Status.REJECTED if SPOILT & set(sample.flags) else Status.OK,
        "timing": sample.timing,
        "health": sample.health,
        "flags": (*reduced, *sample.flags),
        "attempts": attempts,
    }
    return _point(actual, order, found)


def faulty(case: Case, order: int, fault: Fault) -> Point:
    """The point at which the device gave up, so that a resumed run goes on behind it."""
    return _point(case, order, {"status": Status.FAILED, "note": plain(str(fault))})


def plain(message: str) -> str:
    """A message without what a run must not carry: paths and addresses, and versions that look like some."""
    return redacted("".join(c for c in message if " " <= c <= "~" and c not in "/\\@")[:200])


def _point(case: Case, order: int, found: dict[str, Any]) -> Point:
    names = ("family", "kernel", "dtype", "shape", "bytes", "flops", "anchor")
    return Point(**{name: getattr(case, name) for name in names}, order=order, **found)


Way = tuple[int, Rule, Callable[[float], None]]


def _calm(device: Device, load: LoadedCase, case: Case, way: Way) -> tuple[Sample, int]:
    """The first attempt without a flag, else the one with the fewest."""
    copies, rule, pause = way
    best: Sample | None = None
    before = device.health()
    for attempt in range(1, ATTEMPTS + 1):
        timing = _timing(load, copies, rule)
        after = device.health()
        sample = Sample(timing, after, _flags(device, case, timing, (before, after)))
        if best is None or len(sample.flags) < len(best.flags):
            best = sample
        if not AGAIN & set(sample.flags):
            return sample, attempt
        if Flag.THROTTLED in sample.flags or Flag.BUSY in sample.flags:
            pause(PAUSE_S)
        if Flag.ABOVE_LIMIT in sample.flags and case.cold_bytes:
            copies, load = _more(device, load, case, 2 * copies)
    assert best is not None
    return best, ATTEMPTS


def _more(device: Device, load: LoadedCase, case: Case, copies: int) -> tuple[int, LoadedCase]:
    """The same case with more copies, or as it is when they do not fit."""
    device.free()
    try:
        return copies, device.load(case, copies)
    except OutOfMemory:
        device.free()
        return copies // 2, device.load(case, copies // 2)
