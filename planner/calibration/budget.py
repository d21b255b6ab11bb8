"""How long a run should take: what the progress bar counts instead of points, and what keeps the suite short.

    seconds = expected_s(case, device, rule)      # preparing, choosing a variant, capturing and replaying

From the hardware's limits and the cost of host work, both typical; good to a factor of two, far better than a
count, as the longest point takes a thousand times what the shortest does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from planner.calibration.cases import Case
from planner.calibration.graphs import WARM_UPS
from planner.calibration.timing import GUESSES, Device, Rule, calls_for, copies_for, replays_for
from planner.specs.run import LIBRARY

ATTAINED = 0.6  # of a limit, over all kernels
START_S = 4e-6  # of a kernel
CAPTURE_S = 12e-6  # host time per captured launch
GRAPH_S = 1e-3  # of a graph beside its launches
POINT_S = 10e-3  # of a point: buffers, the driver's state, the journal
BUNDLED_TRIALS = 5  # variants of a bundled kernel that are tried at a shape
PRIOR_S = 5.0  # of measuring that the expectation is worth


def expected_s(case: Case, device: Device, rule: Rule) -> float:
    """Seconds of host and GPU that a point should take."""
    one = START_S + device.limit_s(case) / ATTAINED
    copies = copies_for(case, device.l2_bytes)
    calls = calls_for(one, copies, rule)
    replays = replays_for(one * calls, rule)
    measured = (replays + WARM_UPS + GUESSES) * calls * one + (copies + calls) * CAPTURE_S + 2 * GRAPH_S
    trials = 0 if case.kernel.startswith(LIBRARY) else BUNDLED_TRIALS
    return POINT_S + measured + trials * (GRAPH_S + copies * (CAPTURE_S + WARM_UPS * one))


class Remaining:
    """Time left of a list of points: what the rest should take, corrected by what the first ones took."""

    def __init__(self, expected: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self.until, self.clock, self.start = [0.0, *accumulate(expected)], clock, clock()

    def s(self, done: int) -> float:
        """Seconds left after `done` points; the correction counts from where PRIOR_S have been measured."""
        took, expected = self.clock() - self.start, self.until[done]
        pace = (took + PRIOR_S) / (expected + PRIOR_S)
        return pace * (self.until[-1] - expected)
