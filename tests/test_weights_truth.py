"""Predicted weights against published files and engines' logs: planner/data/truth/weights.csv."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from planner.catalog.engines import engine
from planner.catalog.formats import weight_format
from planner.catalog.models import model
from planner.catalog.paths import data_dir
from planner.collectives import Parallel
from planner.formats import tensor_bytes
from planner.memory import memory_plan
from planner.memory.terms import Device, MemoryInputs, ReplicaLoad, Settings
from planner.params import tensors
from planner.specs.model import Role
from planner.units import GB, GIB

TABLE = data_dir() / "truth" / "weights.csv"
DEVICE = Device(total_bytes=80 * GIB)
LOAD = ReplicaLoad(input_tokens=1024, output_tokens=128)


class Score(NamedTuple):
    row: dict[str, str]
    measured_bytes: float
    predicted_bytes: float

    @property
    def error(self) -> float:
        return self.predicted_bytes / self.measured_bytes - 1


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def file_bytes(row: dict[str, str]) -> float:
    """A GGUF file: the image encoder is a file of its own."""
    spec = model(row["model"])
    sizes = tensor_bytes(spec, weight_format(row["weight_format"]))
    return float(sum(size for size, t in zip(sizes, tensors(spec), strict=True) if t.role is not Role.VISION))


def loaded_bytes(row: dict[str, str]) -> float:
    """What an engine holds on one GPU of `tp`."""
    spec, tp = model(row["model"]), int(row["tp"])
    sizes = tensor_bytes(spec, weight_format(row["weight_format"]), resident=True, expert_shards=tp)
    settings = Settings(0.9, 256, 8192, float(spec.max_position))
    parallel = Parallel(tp=np.array([float(tp)]))
    inputs = MemoryInputs(sizes, 2, 2, device=DEVICE, settings=settings, load=LOAD, parallel=parallel)
    return float(memory_plan(spec, engine(row["engine"]), inputs).terms.weights_bytes[0])


@cache
def scores() -> tuple[Score, ...]:
    found = []
    for row in rows():
        if not row["excluded"]:
            measured = float(row["measured_file_gb"] or 0) * GB
            measured += float(row["measured_file_gib"] or row["measured_weights_gib"] or 0) * GIB
            found.append(Score(row, measured, loaded_bytes(row) if row["engine"] else file_bytes(row)))
    return tuple(found)


def errors() -> np.ndarray:
    return np.abs([score.error for score in scores()])


def test_weights_are_predicted_within_half_a_percent() -> None:
    assert len(errors()) >= 160
    assert np.median(errors()) <= 0.005


def test_nine_of_ten_weights_are_predicted_within_two_percent() -> None:
    assert np.percentile(errors(), 90) <= 0.02


def test_every_weight_that_is_off_by_five_percent_is_explained() -> None:
    far = [score.row["named"] for score in scores() if abs(score.error) > 0.05 and not score.row["note"]]
    assert far == []


@pytest.mark.parametrize("engine_name", ["", "vllm"])
def test_files_and_loaded_weights_each_hold_alone(engine_name: str) -> None:
    found = [abs(score.error) for score in scores() if score.row["engine"] == engine_name]
    assert len(found) >= 25
    assert np.median(found) <= 0.005


def test_rows_that_are_not_scored_say_why() -> None:
    reasons = Counter(row["excluded"].partition(":")[0] for row in rows() if row["excluded"])
    assert sum(reasons.values()) + len(scores()) == len(rows()) == 252
    assert len(reasons) <= 10


def test_every_row_names_its_source_and_holds_one_figure() -> None:
    for row in rows():
        figures = [row[name] for name in ("measured_file_gb", "measured_file_gib", "measured_weights_gib") if row[name]]
        assert row["source"] and len(figures) == 1
