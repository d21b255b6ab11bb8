"""Holds, cracks, or cannot tell: what paired passes and failures allow to be said, never a bare percentage.

A side cracks where the drop is significant (one-sided exact test at 2.5 % for all examples; Holm over the tags at
another 2.5 %, so identical models crack in at most 5 % of checks) and a drop beyond the tolerance is not excluded.
It holds where the interval excludes a drop beyond the tolerance, also with every unanswered or undecided example
counted as lost; of a tag that is not said as long as there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from typing import NamedTuple

import numpy as np

from planner.quality import statistics
from planner.quality.statistics import ALPHA, Interval, Ints, Noise
from planner.specs.quality import Verdict

FINEST_STEP = 120  # differences of uneven repeats are rounded to this part of an answer; the test stays exact


class Passes(NamedTuple):
    """One example's passes of both sides, repeat by repeat, equally many."""

    id: str
    tags: tuple[str, ...]
    baseline: tuple[bool, ...]
    candidate: tuple[bool, ...]

    @property
    def difference(self) -> float:
        """Candidate's pass rate minus the baseline's."""
        return (sum(self.candidate) - sum(self.baseline)) / len(self.baseline)


class SliceResult(NamedTuple):
    """All examples, or those of one tag. Rates are fractions, `p` one-sided (adjusted over the tags)."""

    tag: str
    n: int
    baseline_rate: float
    candidate_rate: float
    difference: Interval
    losses: int
    gains: int
    p: float
    verdict: Verdict


class Finding(NamedTuple):
    """The verdict with what it rests on; drops are fractions."""

    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]
    whole: SliceResult
    tags: tuple[SliceResult, ...]
    mcnemar_p: float | None  # two-sided exact; None with repeats
    visible_drop: float | None
    examples_needed: int | None
    noise: Noise | None
    tolerance: float
    unanswered: int


def finding(pairs: Sequence[Passes], tolerance: float, unanswered: int = 0, undecided: int = 0) -> Finding:
    """The verdict on all pairs and on each of their tags. `tolerance` is the drop that is accepted, a fraction.

    `unanswered` are examples beside the pairs, `undecided` pairs without a flip that nobody can vouch for.
    """
    verdict, whole, tags = judged(pairs, tolerance, unanswered, undecided)
    cracked = [part.tag for part in tags if part.verdict is Verdict.CRACKS]
    gain_rate = min(whole.losses, whole.gains) / whole.n
    repeated = any(len(pair.baseline) > 1 for pair in pairs)
    found = Finding(
        verdict,
        _headline(verdict, whole, tolerance, cracked),
        (),
        whole,
        tags,
        None if repeated else statistics.mcnemar_exact(whole.gains, whole.losses),
        statistics.smallest_visible_drop(whole.n, gain_rate),
        statistics.examples_needed(tolerance, gain_rate),
        statistics.noise([pair.baseline for pair in pairs], [pair.candidate for pair in pairs]),
        tolerance,
        unanswered,
    )
    return found._replace(sentences=tuple(_sentences(found)))


def judged(
    pairs: Sequence[Passes], tolerance: float, unanswered: int = 0, undecided: int = 0
) -> tuple[Verdict, SliceResult, tuple[SliceResult, ...]]:
    """The verdict alone, with the whole and the tags it rests on."""
    whole = _part("", pairs)
    whole = whole._replace(verdict=_judged(whole, _lowest(whole, pairs, unanswered, undecided), tolerance))
    tags = _tags(pairs, tolerance, complete=not (unanswered or undecided))
    cracked = any(part.verdict is Verdict.CRACKS for part in tags)
    return (Verdict.CRACKS if cracked else whole.verdict), whole, tags


def _lowest(whole: SliceResult, pairs: Sequence[Passes], unanswered: int, undecided: int) -> float:
    """The lower limit with every unanswered and undecided example counted as lost."""
    if not (unanswered or undecided):
        return whole.difference.low
    steps, unit = _steps(pairs)
    steps[np.flatnonzero(steps == 0)[:undecided]] = -unit
    return _interval(np.concatenate([steps, np.full(unanswered, -unit)]), unit).low


def _steps(pairs: Sequence[Passes]) -> tuple[Ints, int]:
    """Differences in whole steps, and how many steps make one answer."""
    unit = min(lcm(*{len(pair.baseline) for pair in pairs}), FINEST_STEP)
    return np.array([round(pair.difference * unit) for pair in pairs], np.int64), unit


def _interval(steps: Ints, unit: int) -> Interval:
    if unit == 1:
        return statistics.tango_interval(int((steps > 0).sum()), int((steps < 0).sum()), len(steps))
    return statistics.mean_interval(steps / unit)


def _part(tag: str, pairs: Sequence[Passes]) -> SliceResult:
    steps, unit = _steps(pairs)
    sides = zip(*((pair.baseline, pair.candidate) for pair in pairs), strict=True)
    rates = [sum(sum(side) / len(side) for side in one) / len(pairs) for one in sides]
    difference, p = _interval(steps, unit), statistics.sign_flip_p(steps)
    losses, gains = int((steps < 0).sum()), int((steps > 0).sum())
    return SliceResult(tag, len(pairs), rates[0], rates[1], difference, losses, gains, p, Verdict.CANNOT_TELL)


def _judged(part: SliceResult, low: float, tolerance: float) -> Verdict:
    if part.baseline_rate <= tolerance:  # a drop beyond the tolerance is not possible, so its absence shows nothing
        return Verdict.CANNOT_TELL
    if low > -tolerance:
        return Verdict.HOLDS
    significant = part.p <= ALPHA and part.difference.low <= -tolerance
    return Verdict.CRACKS if significant else Verdict.CANNOT_TELL


def _tags(pairs: Sequence[Passes], tolerance: float, complete: bool) -> tuple[SliceResult, ...]:
    members: dict[str, list[Passes]] = {}
    for pair in pairs:
        for tag in dict.fromkeys(pair.tags):
            members.setdefault(tag, []).append(pair)
    parts = [_part(tag, members[tag]) for tag in sorted(members)]
    adjusted = statistics.holm([part.p for part in parts])
    parts = [part._replace(p=p) for part, p in zip(parts, adjusted, strict=True)]
    lowest = [part.difference.low if complete else -1.0 for part in parts]
    return tuple(part._replace(verdict=_judged(part, low, tolerance)) for part, low in zip(parts, lowest, strict=True))


def points(fraction: float) -> str:
    """A fraction as percentage points, as people read it."""
    value = 100 * fraction
    return f"{value:.0f}" if abs(value) >= 9.95 or value == round(value) else f"{value:.1f}"


def span(interval: Interval) -> str:
    """A difference with its interval in points, signs written out."""
    low, high = (f"{100 * value:+.1f}" for value in (interval.low, interval.high))
    return f"{100 * interval.estimate:+.1f} points ({low} to {high})"


def _headline(verdict: Verdict, whole: SliceResult, tolerance: float, cracked: Sequence[str]) -> str:
    if verdict is Verdict.HOLDS:
        return f"Holds: a drop of more than {points(tolerance)} points is excluded"
    if verdict is Verdict.CANNOT_TELL and whole.baseline_rate <= tolerance:
        return f"Cannot tell: the baseline itself passes {100 * whole.baseline_rate:.1f} %, nothing is there to lose"
    if verdict is Verdict.CANNOT_TELL:
        return f"Cannot tell: {whole.n} examples neither show a drop nor exclude one of {points(tolerance)} points"
    if whole.verdict is Verdict.CRACKS:
        also = f", worst shown in {', '.join(cracked)}" if cracked else ""
        return f"Cracks: the candidate is worse on these examples{also}"
    return f"Cracks in {', '.join(cracked)}: the candidate is worse there"


def _sentences(found: Finding) -> list[str]:
    whole, tolerance = found.whole, points(found.tolerance)
    flips = f"{whole.losses} of {whole.n} examples got worse, {whole.gains} better"
    said = [f"{flips}: {span(whole.difference)}, 95 % interval."]
    if whole.verdict is not Verdict.CRACKS:
        said.append(f"A drop larger than {points(max(-whole.difference.low, 0.0))} points is excluded.")
    if found.visible_drop is None:
        said.append(f"{whole.n} examples are too few to see any drop reliably.")
    elif found.visible_drop > found.tolerance:
        said.append(
            f"{whole.n} examples cannot see {tolerance} points: a drop shows with a chance of 80 % from "
            f"{points(found.visible_drop)} points on."
        )
    if whole.baseline_rate <= found.tolerance:
        said.append("Look at some answers: the scorers may ask for another form than the prompts do.")
    elif found.verdict is Verdict.CANNOT_TELL:
        said.append(_more(found))
    if found.noise:
        said.append(
            f"Two answers of one side to the same example differ in {points(found.noise.flip_fraction)} % of cases; "
            f"repeats alone explain differences up to {points(found.noise.floor)} points."
        )
    if found.unanswered:
        said.append(f"Examples without an answer of both sides: {found.unanswered}; a rerun asks only what is missing.")
    return said


def _more(found: Finding) -> str:
    needed, n = found.examples_needed, found.whole.n
    if needed is None:
        return f"More than a million examples would be needed for {points(found.tolerance)} points."
    if needed <= n:
        return "These examples would show such a drop in most cases; repeats or more of them narrow the interval."
    return f"About {needed - n:,} more examples ({needed:,} in all) show a drop of {points(found.tolerance)} points."


def rows(found: Finding) -> list[Mapping[str, object]]:
    """The whole and its tags as rows for tables; points and p values."""
    return [
        {
            "tag": part.tag or "all",
            "examples": part.n,
            "baseline_percent": 100 * part.baseline_rate,
            "candidate_percent": 100 * part.candidate_rate,
            "difference_points": 100 * part.difference.estimate,
            "difference_points_low": 100 * part.difference.low,
            "difference_points_high": 100 * part.difference.high,
            "worse": part.losses,
            "better": part.gains,
            "p": part.p,
            "verdict": part.verdict.value,
        }
        for part in (found.whole, *found.tags)
    ]
