import pytest

from planner.calibration import collectives
from planner.calibration.collectives import Group, measure_group, sizes_of_groups
from planner.errors import PlannerError
from planner.specs.run import CollectiveShape, Status

pytest.importorskip("torch")


def test_two_ranks_measure_every_collective_they_have() -> None:
    points = measure_group(Group(2, "gloo", "cpu"), (2**10, 2**16))
    assert len(points) == len(collectives.FAMILIES) * 2 and {point.kernel for point in points} == {"gloo"}
    by_family = {point.family: point for point in points}
    reduced = by_family["all_reduce"]
    assert reduced.status is Status.OK and reduced.shape == CollectiveShape(ranks=2, size_bytes=2**16)
    assert reduced.timing is not None and 0 < reduced.timing.p10_s <= reduced.timing.median_s <= reduced.timing.p90_s


def test_ranks_that_die_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlannerError, match="did not finish"):
        measure_group(Group(2, "no-such-backend", "cpu"), (2**10,))


def test_a_failed_collective_is_recorded_without_paths() -> None:
    failed = collectives.point("all_to_all", CollectiveShape(ranks=2, size_bytes=8), "not at /usr/lib", "gloo")
    assert failed.status is Status.FAILED and "/" not in failed.note


@pytest.mark.parametrize(("gpus", "groups"), [(1, []), (2, [2]), (4, [2, 4]), (8, [2, 4, 8]), (6, [2, 4])])
def test_groups_double_up_to_all_gpus(gpus: int, groups: list[int]) -> None:
    assert sizes_of_groups(gpus) == groups
