"""The verdict: its three answers, its words, and how often it is wrong."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from planner.quality.verdict import Finding, Passes, finding, judged
from planner.specs.quality import Verdict


def pairs(both: int, losses: int, gains: int, tags: tuple[str, ...] = ()) -> list[Passes]:
    cells = [(True, True)] * both + [(True, False)] * losses + [(False, True)] * gains
    return [Passes(str(i), tags, (before,), (after,)) for i, (before, after) in enumerate(cells)]


def said(found: Finding) -> str:
    return " ".join((found.headline, *found.sentences))


def test_fifty_examples_without_a_flip_cannot_tell_two_points() -> None:
    found = finding(pairs(50, 0, 0), 0.02)
    assert found.verdict is Verdict.CANNOT_TELL
    assert "50 examples cannot see 2 points" in said(found)
    assert "A drop larger than 7.1 points is excluded" in said(found)
    assert found.examples_needed is not None and f"{found.examples_needed - 50} more examples" in said(found)


def test_many_examples_without_a_flip_hold() -> None:
    found = finding(pairs(300, 0, 0), 0.02)
    assert found.verdict is Verdict.HOLDS and found.headline.startswith("Holds: a drop of more than 2 points")


def test_a_large_drop_cracks() -> None:
    found = finding(pairs(40, 12, 1), 0.02)
    assert found.verdict is Verdict.CRACKS
    assert found.mcnemar_p == pytest.approx(14 * 2 / 2**13)  # two-sided: 2 (C(13,0) + C(13,1)) / 2^13


def test_a_significant_drop_within_the_tolerance_holds() -> None:
    found = finding(pairs(9950, 45, 5), 0.02)
    assert found.whole.p < 1e-6 and found.verdict is Verdict.HOLDS


def test_one_tag_can_crack_while_the_whole_cannot_tell() -> None:
    flat = pairs(150, 8, 16, ("chat",))
    found = finding([*flat, *pairs(10, 12, 0, ("tools",))], 0.02)
    assert found.whole.verdict is Verdict.CANNOT_TELL
    assert found.verdict is Verdict.CRACKS and found.headline.startswith("Cracks in tools")
    assert [part.tag for part in found.tags] == ["chat", "tools"]


def test_many_tags_raise_the_bar_of_each() -> None:
    alone = finding(pairs(20, 7, 0, ("a",)), 0.02).tags[0]
    among = finding([*pairs(20, 7, 0, ("a",)), *(p for i in range(9) for p in pairs(20, 1, 1, (f"t{i}",)))], 0.02)
    tag = next(part for part in among.tags if part.tag == "a")
    assert tag.p == pytest.approx(10 * alone.p)
    assert alone.verdict is Verdict.CRACKS and tag.verdict is Verdict.CANNOT_TELL


def test_a_baseline_that_passes_nothing_shows_nothing() -> None:
    failing = [Passes(str(i), (), (False,), (False,)) for i in range(400)]
    found = finding(failing, 0.02)
    assert found.verdict is Verdict.CANNOT_TELL and "the baseline itself passes 0.0 %" in said(found)


def test_unanswered_examples_count_as_lost_before_it_holds() -> None:
    assert finding(pairs(300, 0, 0), 0.02).verdict is Verdict.HOLDS
    found = finding(pairs(300, 0, 0), 0.02, unanswered=5)
    assert found.verdict is Verdict.CANNOT_TELL and "without an answer of both sides: 5;" in said(found)


def test_repeats_give_a_noise_floor() -> None:
    rng = np.random.default_rng(5)
    sides = rng.random((2, 60, 4)) < 0.7
    repeated = [Passes(str(i), (), tuple(map(bool, sides[0, i])), tuple(map(bool, sides[1, i]))) for i in range(60)]
    found = finding(repeated, 0.02)
    assert found.noise is not None and found.mcnemar_p is None
    assert found.verdict is not Verdict.CRACKS and "repeats alone explain" in said(found)


@pytest.mark.parametrize(("n", "flips", "repeats"), [(50, 0.1, 1), (200, 0.3, 1), (500, 0.05, 1), (60, 0.5, 3)])
def test_identical_models_crack_in_at_most_one_check_of_twenty(n: int, flips: float, repeats: int) -> None:
    # Both sides draw from one pass rate per example; four tags of unequal sizes, some examples in two of them.
    rng = np.random.default_rng(n)
    tags = [tuple(f"t{k}" for k in range(4) if i % (k + 2) == 0) for i in range(n)]
    checks, cracks = 600, 0
    for _ in range(checks):
        rate = np.where(rng.random(n) < 2 * flips, 0.5, 1.0)[:, None]
        a, b = (rng.random((n, repeats)) < rate for _ in range(2))
        drawn = [Passes(str(i), tags[i], tuple(a[i].tolist()), tuple(b[i].tolist())) for i in range(n)]
        cracks += judged(drawn, 0.02)[0] is Verdict.CRACKS
    assert cracks <= 0.05 * checks + 2 * (0.05 * 0.95 * checks) ** 0.5


def test_a_real_drop_of_the_visible_size_cracks_as_often_as_said() -> None:
    rng = np.random.default_rng(8)
    visible = finding(pairs(190, 5, 5), 0.02).visible_drop
    assert visible is not None
    tables = rng.multinomial(200, [0.025, 0.025 + visible, 0.95 - visible], 300)
    cracks = sum(judged(pairs(int(both), int(b), int(g)), 0.02)[0] is Verdict.CRACKS for g, b, both in tables)
    assert cracks / 300 == pytest.approx(0.8, abs=0.07)
