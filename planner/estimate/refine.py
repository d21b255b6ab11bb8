"""Factors on the time of an engine's steps on a GPU, from stored observations: one for decodes, one for prompts.

A factor's prior is 1, with the width of the engine's evidence; an observation has the width of repeated runs:

    factor = exp(n / (n + k) median(ln(measured / predicted))),  k = (ln(1 + w_observed) / ln(1 + w_prior))^2

over n observations, each predicted without any. An observation more than MOST times away is taken for another
configuration and left out. A refined step never falls below the hardware's limit (`Clock.floor_s`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any

from planner.catalog import observed
from planner.catalog.engines import engine_ids, kernels
from planner.catalog.uncertainty import uncertainty
from planner.estimate.batch import priced
from planner.estimate.evidence import Stamp
from planner.estimate.factors import Refined, engine_evidence
from planner.estimate.library import Library
from planner.estimate.resolve import ResolvedRow, resolve
from planner.identity import Same
from planner.specs.observation import Observation

DECODE = ("tpot_ms", "output_tokens_per_s_per_request", "output_tokens_per_s")  # the first that is measured
PREFILL = ("prefill_tokens_per_s", "ttft_ms")  # a time to first token only where nothing else runs
MOST = 2.0  # times faster or slower than predicted
MANY = 2  # requests at once, assumed where only a rate is stated


def stored() -> tuple[Observation, ...]:
    """Every stored observation; the same tuple as long as none is added."""
    return _stored(observed.stamp())


@lru_cache(maxsize=16)
def _stored(stamp: observed.Stamp) -> tuple[Observation, ...]:
    return tuple(kept.observation for kept in observed.kept(stamp))


def refined(row: ResolvedRow, library: Library) -> ResolvedRow:
    """The row with the factors of its engine on its GPU, from the library's observations or else the stored ones."""
    known = stored() if library.observations is None else library.observations
    where = row.engine.kernels, row.gpu.id
    if not known or where not in _index(Same(known)):
        return row
    level = engine_evidence(row.engine, row.model, row.gpu.vendor)
    return row._replace(refined=_refined(Same(known), where, level, library.stamp))


@lru_cache(maxsize=16)
def _index(known: Same[tuple[Observation, ...]]) -> Mapping[tuple[str, str], list[Observation]]:
    found: dict[tuple[str, str], list[Observation]] = {}
    for one in known.value:
        engine = one.scenario.engine or ""
        built = kernels(engine, one.scenario.backend) if engine in engine_ids() else engine
        found.setdefault((built, one.scenario.gpu or ""), []).append(one)
    return found


@lru_cache(maxsize=256)
def _refined(known: Same[tuple[Observation, ...]], where: tuple[str, str], level: str, stamp: Stamp | None) -> Refined:
    mine, alone = _index(known)[where], Library(stamp=stamp)
    answers = priced([one.scenario for one in mine], lambda scenario: resolve(scenario, alone)).rows()
    decode, prefill = ([*_ratios(mine, answers, names)] for names in (DECODE, PREFILL))
    widths = uncertainty()
    priors = (getattr(widths.decode_engine, level).value, getattr(widths.prefill_engine, level).value)
    return Refined(
        shrunk(decode, widths.decode_engine.observed.value, priors[0]),
        shrunk(prefill, widths.prefill_engine.observed.value, priors[1]),
        len(decode) + len(prefill),
    )


def time_ratio(figure: str, measured: float, predicted: float) -> float:
    """Measured over predicted time; of a rate, predicted over measured."""
    return measured / predicted if figure.endswith("_ms") else predicted / measured


def _ratios(mine: Sequence[Observation], answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterable[float]:
    """ln(measured / predicted) of every observation, by the first of these figures that it has and can compare."""
    for one, answer in zip(mine, answers, strict=True):
        busy = (one.scenario.concurrency or MANY) > 1
        name = next((name for name in names if name in one.measured and not (busy and name == "ttft_ms")), None)
        predicted = answer.get(name) if name else None
        if name and predicted:
            ratio = time_ratio(name, one.measured[name], predicted)
            if 1 / MOST <= ratio <= MOST:
                yield math.log(ratio)


def shrunk(logs: Sequence[float], observed_width: float, prior_width: float) -> float:
    """The factor of n observations, drawn towards 1 by how sure the estimate was without them."""
    if not logs:
        return 1.0
    k = (math.log1p(observed_width) / math.log1p(prior_width)) ** 2
    return math.exp(len(logs) / (len(logs) + k) * median(logs))
