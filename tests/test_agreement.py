"""The planner ranks measured configurations as their measurements do. Some of these rows shaped its constants: docs."""

from __future__ import annotations

from functools import lru_cache

import pytest

from planner.accuracy.score import held_out
from tests.choices import (
    AXES,
    CHOSEN,
    CLOSED,
    Agreement,
    Configuration,
    agreement,
    configurations,
    groups,
    halves,
    plain,
    replicas,
    unshaped,
)


@lru_cache(maxsize=1)
def found() -> tuple[Configuration, ...]:
    return configurations()


def of(axis: str) -> Agreement:
    return agreement(axis, found(), AXES.get(axis, CHOSEN))


@pytest.mark.parametrize("axis", ["tp", "format", "concurrency", "everything"])
def test_the_better_configuration_is_ranked_first(axis: str) -> None:
    result = of(axis)
    assert result.pairs > 50
    assert result.right >= 0.9


@pytest.mark.parametrize("axis", ["tp", "format", "concurrency", "everything"])
def test_the_choice_is_close_to_the_best_that_was_measured(axis: str) -> None:
    assert of(axis).within >= 0.9


@pytest.mark.parametrize("axis", ["tp", "format", "concurrency", "everything"])
def test_models_and_gpus_that_shaped_nothing_are_ranked_as_measured(axis: str) -> None:
    result = agreement(axis, unshaped(found()), AXES.get(axis, CHOSEN))
    assert result.pairs > 20
    assert result.right >= 0.9 and result.within >= 0.9


@pytest.mark.parametrize("column", ["model", "gpu"])
def test_each_half_of_them_is_ranked_as_measured(column: str) -> None:
    for _, half in halves(unshaped(found()), column):
        result = agreement("everything", half, CHOSEN)
        assert result.pairs > 50 and result.right >= 0.9 and result.within >= 0.9


def test_nothing_held_out_shaped_a_constant() -> None:
    everything = found()
    assert 300 < len(unshaped(everything)) < len(everything)
    for one in unshaped(everything):
        assert held_out(str(one.scenario.engine), one.scenario.model or "", str(one.scenario.gpu)) == "yes"


def test_replicas_of_a_load_are_right_within_one_up_to_four() -> None:
    for load in replicas(plain(found())):
        assert load.within_one >= (0.9 if load.measured <= 4 else 0.7)


def test_rows_of_another_protocol_are_not_compared() -> None:
    assert {one.part for one in plain(found())} == {CLOSED}
    assert all(len({one.part for one in group}) == 1 for group in groups(found(), AXES["tp"]))


def test_a_planner_that_ranks_backwards_would_be_found_out() -> None:
    upside_down = [one._replace(predicted=one.gpus**2 / one.predicted) for one in found()]
    assert agreement("tp", upside_down, AXES["tp"]).right < 0.2
