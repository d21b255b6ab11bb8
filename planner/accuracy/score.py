"""Predicted against measured: one comparison per figure and row, and what a group of them says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from planner.accuracy.rows import Question, files, model_kind, questions
from planner.catalog import models
from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.catalog.truth import SPEED_FILES, MeasuredRow
from planner.estimate import estimate
from planner.estimate.library import NOTHING_OBSERVED
from planner.specs.scenario import Scenario

GROUPED = "part figure regime gpu engine engine_version model kind evidence held_out".split()


class Comparison(NamedTuple):
    """One figure of one row. `low` and `high` are the ends of the estimate's interval, NaN where it has none."""

    figure: str
    predicted: float
    measured: float
    low: float
    high: float
    part: str
    regime: str
    gpu: str
    engine: str
    engine_version: str
    kind: str
    evidence: str
    label: str  # the configuration, for people
    stated: bool
    note: str
    model: str = ""
    held_out: str = ""  # yes: no row of this model on this GPU shaped a constant of the engine

    @property
    def error(self) -> float:
        """Relative error, signed."""
        return self.predicted / self.measured - 1


class Unanswered(NamedTuple):
    """A row to which the estimator has no figure, and its reason."""

    part: str
    where: str
    label: str
    reason: str


class Compared(NamedTuple):
    """Everything that the measured rows say."""

    comparisons: tuple[Comparison, ...]
    unanswered: tuple[Unanswered, ...]


class Score(NamedTuple):
    """A group of comparisons: errors are relative, `mean_off` is the mean absolute error in the figure's unit."""

    rows: int
    configurations: int
    median: float
    p90: float
    mean: float
    bias: float  # median of the signed error
    mean_off: float
    coverage: float  # share of rows inside the interval; NaN without one
    worst: float
    worst_label: str


def score(group: Sequence[Comparison]) -> Score:
    """Score of a group that is not empty."""
    errors = np.array([c.error for c in group])
    off = np.abs(errors)
    bounded = [c for c in group if math.isfinite(c.low) and math.isfinite(c.high)]
    inside = [c.low <= c.measured <= c.high for c in bounded]
    worst = group[int(np.argmax(off))]
    return Score(
        rows=len(group),
        configurations=len({(c.label, c.engine_version) for c in group}),
        median=float(np.median(off)),
        p90=float(np.percentile(off, 90)),
        mean=float(np.mean(off)),
        bias=float(np.median(errors)),
        mean_off=float(np.mean([abs(c.predicted - c.measured) for c in group])),
        coverage=float(np.mean(inside)) if inside else math.nan,
        worst=worst.error,
        worst_label=worst.label,
    )


def grouped(
    comparisons: Iterable[Comparison], key: Callable[[Comparison], tuple[str, ...]]
) -> dict[tuple[str, ...], list[Comparison]]:
    """Comparisons by key, keys in order."""
    out: dict[tuple[str, ...], list[Comparison]] = {}
    for c in comparisons:
        out.setdefault(key(c), []).append(c)
    return dict(sorted(out.items()))


def label(s: Scenario) -> str:
    """A configuration in one line: what was run, where, how, under which load."""
    split = (("x", s.n_gpus), ("tp", s.tp), ("pp", s.pp), ("ep", s.ep), ("adp", s.attention_dp), ("dp", s.dp))
    parts: list[object] = [
        (s.model or "").rpartition("/")[2],
        s.weight_format,
        s.kv_format and f"kv {s.kv_format}",
        s.gpu,
    ]
    parts += [f"{name}{n}" for name, n in split if (n or 1) > 1]
    parts += [s.max_model_len and f"len {s.max_model_len}", s.n_ubatch and f"ubatch {s.n_ubatch}"]
    if s.input_tokens is not None:
        parts += [f"{s.input_tokens}/{s.output_tokens}", s.concurrency and f"c{s.concurrency}"]
        parts += [s.request_rate_per_s and f"{s.request_rate_per_s:g}/s"]
        parts += [s.cached_input_fraction and f"cached {s.cached_input_fraction:.2g}"]
    return " ".join(str(part) for part in parts if part)


@lru_cache(maxsize=1)
def compared() -> Compared:
    """Every measured row that ships, estimated in one batch."""
    asked = list(questions())
    answers = estimate([q.scenario for q in asked], library=NOTHING_OBSERVED).rows()
    comparisons: list[Comparison] = [_file(known.row, known.predicted, known.measured) for known in files()]
    unanswered: list[Unanswered] = []
    for question, answer in zip(asked, answers, strict=True):
        for figure, measured in question.figures.items():
            predicted = answer[figure]
            if predicted is not None and predicted > 0 and measured > 0:
                comparisons.append(_compared(question, figure, answer))
            else:
                reason = answer["error"] or answer["reason_code"] or f"no {figure}"
                unanswered.append(Unanswered(question.part, question.row.where, label(question.row.scenario), reason))
    return Compared(tuple(comparisons), tuple(unanswered))


@lru_cache(maxsize=512)
def _kind(model: str) -> str:
    return model_kind(models.model(model))


def _file(row: MeasuredRow, predicted: float, measured: float) -> Comparison:
    """A published file: no engine, no card, no interval."""
    s = row.scenario
    family = (s.weight_format or "").partition("-")[0]
    return Comparison(
        "file_gib", predicted, measured, math.nan, math.nan, "files", "", "", "",
        family, _kind(s.model or ""), "", label(s), True, row.about["note"],
    )  # fmt: skip


def _compared(question: Question, figure: str, answer: dict[str, Any]) -> Comparison:
    s = question.scenario
    low, high = answer.get(f"{figure}_low"), answer.get(f"{figure}_high")
    speed = question.row.file in SPEED_FILES
    given = question.row.scenario.gpu
    return Comparison(
        figure=figure,
        predicted=float(answer[figure]),
        measured=question.figures[figure],
        low=math.nan if low is None else float(low),
        high=math.nan if high is None else float(high),
        part=question.part,
        regime=question.regime,
        gpu=str(answer["gpu"]) if given else "not stated",
        engine=str(answer["engine"]),
        engine_version=question.row.scenario.engine_version or "not stated",
        kind=_kind(s.model or ""),
        evidence=str(answer["speed_evidence" if speed else "memory_evidence"]),
        label=label(question.row.scenario),
        stated=question.stated,
        note=question.row.about.get("note", ""),
        model=architecture(s.model or ""),
        held_out=held_out(str(answer["engine"]), s.model or "", str(answer["gpu"])) if speed else "",
    )


@lru_cache(maxsize=512)
def architecture(name: str) -> str:
    """The architecture's name, whatever the checkpoint's."""
    return models.model(name).id.rpartition("/")[2]


@lru_cache(maxsize=1)
def _shaping() -> list[dict[str, str]]:
    return list(read_yaml(data_dir() / "shaped.yaml"))


def held_out(engine: str, model: str, gpu: str) -> str:
    """Whether no row of this model on this GPU has shaped a constant of the engine."""
    name, places = architecture(model), (one for one in _shaping() if (one["engine"], one["gpu"]) == (engine, gpu))
    return "no" if any(one["model"] in ("*", name) for one in places) else "yes"


def reasons(unanswered: Iterable[Unanswered]) -> Counter[tuple[str, str]]:
    """Rows without an answer, counted by part and reason; a row counts once."""
    rows = {(u.part, u.reason, u.where) for u in unanswered}
    return Counter((part, reason) for part, reason, _ in rows)
