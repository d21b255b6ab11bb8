"""Loads on priced replicas: how many replicas each needs, which combinations are candidates, and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.billing import HOURS_PER_MONTH
from planner.estimate.answer import rate_exceeded, told_apart_ms
from planner.estimate.loads import DEFAULT_PERCENTILE
from planner.estimate.screen import Curves, Loads, Screened, replicas_needed, screen
from planner.search import limits
from planner.search.axes import Sizing
from planner.search.order import METRICS, READ_TOKENS_PER_S, TINY, front_mask, scores
from planner.search.records import Config, Kept, Ledger
from planner.specs.wish import Wish
from planner.units import MS_PER_S

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_GPUS = 1024  # of a deployment whose size nothing limits
MORE = 1.25  # times the replicas that the figures of one suggest, tried where that many do not suffice
MOST_KEPT = 64  # of a chunk by each order
ALONE = " alone"  # after the name of a budget: for one replica
HOSTING = ("n_gpu_layers", "n_cpu_moe")  # settings that put layers in host memory
CROWDED, HOPELESS, FAR = 1e3, 2e3, 1e6  # distances: no room, never catches up, not priced
LEAST = tuple(bound.name for bound in limits.BOUNDS if bound.least)
SORTED = (
    "quality_score",
    "usd_per_request",
    "output_tokens_per_s_per_gpu",
    "output_tokens_per_s_per_request",
    "ttft_ms",
    "e2e_ms",
    "n_gpus",
)


class Offers(NamedTuple):
    """Loads (N,) on configurations (C,): replicas (N, C), and whether they divide the GPUs that are asked for."""

    concurrency: Floats  # (N, 1)
    replicas: Floats
    divides: Bools
    needs: Bools  # (N, 1): as many replicas as it takes


def offers(configs: Sequence[Config], asked: Sequence[Sizing]) -> Offers:
    """Replicas where the load states GPUs or replicas; 1 where it takes as many as it needs."""
    each = np.array([config.layout.n_gpus for config in configs], dtype=float)
    counts = np.array([[load.gpus or 0] for load in asked], dtype=float)
    stated = np.array([[load.replicas or 1] for load in asked], dtype=float)
    replicas = np.where(counts > 0, np.floor(counts / each), stated) + 0 * each
    divides = (counts == 0) | ((replicas * each == counts) & (replicas > 0))
    concurrency = np.array([[np.nan if load.concurrency is None else load.concurrency] for load in asked])
    needs = np.array([[load.gpus is None and load.replicas is None] for load in asked])
    return Offers(concurrency, np.maximum(replicas, 1), divides, needs)


def early_figures(configs: Sequence[Config], replicas: Floats) -> dict[str, Floats]:
    """Figures that need no pricing, (N, C)."""
    gpus = replicas * np.array([config.layout.n_gpus for config in configs], dtype=float)
    price = np.array([config.price for config in configs])
    return {
        "n_gpus": gpus,
        "usd_per_hour": gpus * price,
        "usd_per_month": gpus * price * HOURS_PER_MONTH,
        "power_w": gpus * np.array([config.place.gpu.tdp_w or np.nan for config in configs]),
        "quality_loss_points": np.array([config.loss_points for config in configs]) + 0 * gpus,
    }


class Verdicts:
    """The first reason against every load on every configuration, (N, C); 0 for a candidate."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first = np.zeros(shape, dtype=np.int64)
        self.distance = np.zeros(shape)
        self.codes = [""]
        self.words: list[Callable[[int, int], str]] = [lambda i, j: ""]

    def against(self, code: str, where: Bools, distance: Any, words: Callable[[int, int], str]) -> None:
        """Add a reason, which applies to those that no earlier reason refused."""
        new = where & (self.first == 0)
        self.first = np.where(new, len(self.codes), self.first)
        self.distance = np.where(new, distance, self.distance)
        self.codes.append(code)
        self.words.append(words)


def early(configs: Sequence[Config], offered: Offers, wish: Wish) -> Verdicts:
    """Reasons that need no pricing: GPUs that do not divide, and budgets of money, power, GPUs and quality."""
    verdicts = Verdicts(offered.replicas.shape)
    figures = early_figures(configs, offered.replicas)
    each = [config.layout.n_gpus for config in configs]
    verdicts.against(
        "count_not_divided", ~offered.divides, FAR, lambda i, j: f"replicas of {each[j]} GPUs do not make up the count"
    )
    for bound, limit in budgets(wish):
        figure = figures[bound.column]
        words = partial(_said, bound, limit, figure)
        away = FAR + np.nan_to_num(figure / max(limit, TINY), nan=FAR)
        verdicts.against(bound.name, limits.broken(bound, limit, figure), away, words)
    return verdicts


def reach_budgets(configs: Sequence[Config], offered: Offers, wish: Wish, ledger: Ledger) -> None:
    """Remember the least that any configuration takes of every budget.

    Figures of one replica, where the load may need several, are remembered under a name of their own (ALONE).
    """
    figures = early_figures(configs, offered.replicas)
    alone = bool(np.any(offered.needs) and np.all(offered.replicas == 1))
    for bound, _ in budgets(wish):
        values = np.where(offered.divides & ~np.isnan(figures[bound.column]), figures[bound.column], np.inf)
        at = np.unravel_index(np.argmin(values), values.shape)
        if np.isfinite(values[at]):
            name = bound.name + ALONE * (alone and bound.grows)
            ledger.reach(name, float(values[at]), True, configs[int(at[1])].columns)


def _said(bound: limits.Bound, limit: float, figure: Floats, i: int, j: int) -> str:
    return limits.said(bound, limit, float(figure[i, j]))


def budgets(wish: Wish) -> list[tuple[limits.Bound, float]]:
    """The wish's limits on what is known before pricing, and MOST_GPUS where it limits no GPUs."""
    bounds = [(bound, limit) for bound, limit in limits.given(wish) if bound.early]
    return bounds if wish.max_gpus else [(limits.BOUNDS[0], float(MOST_GPUS)), *bounds]


class Trials(NamedTuple):
    """Loads (N,) tried on configurations (C,), with everything that decides on them; arrays (N, C)."""

    configs: Sequence[Config]
    curves: Curves
    offered: Offers
    figures: Screened
    columns: dict[str, Floats]  # that limits and orders look at
    verdicts: Verdicts


def settle(configs: Sequence[Config], curves: Curves, asked: Sequence[Sizing], wish: Wish, ledger: Ledger) -> None:
    """Price every load on every configuration that starts; candidates and refusals go to the ledger."""
    offered, figures = _with_needed_replicas(configs, curves, offers(configs, asked), wish)
    verdicts = early(configs, offered, wish)
    reach_budgets(configs, offered._replace(needs=np.zeros_like(offered.needs)), wish, ledger)
    ledger.priced += int(np.count_nonzero(verdicts.first == 0))
    trials = Trials(configs, curves, offered, figures, _columns(configs, offered, figures), verdicts)
    _late(trials, wish)
    _readable(trials, wish)
    _reached(trials, wish, ledger)
    _keep(trials, ledger)
    _refuse(trials, ledger)


def _with_needed_replicas(
    configs: Sequence[Config], curves: Curves, offered: Offers, wish: Wish
) -> tuple[Offers, Screened]:
    """The loads with as many replicas as they need, where these are not stated, and their figures."""
    if not np.any(offered.needs):
        return offered, screen(curves, Loads(offered.concurrency, offered.replicas))
    most = curves.most()
    needed = replicas_needed(curves, most, offered.concurrency)
    offered = offered._replace(replicas=np.where(offered.needs, needed, offered.replicas))
    figures = screen(curves, Loads(offered.concurrency, offered.replicas))
    reachable = (most.concurrency >= 1) & (most.request_rate_per_s > 0)
    missed = offered.needs & ~figures.meets & reachable & (early(configs, offered, wish).first == 0)
    return _with_more(curves, offered, figures) if np.any(missed) else (offered, figures)


def _with_more(curves: Curves, offered: Offers, figures: Screened) -> tuple[Offers, Screened]:
    """A quarter more replicas where those that the figures of one suggest do not suffice."""
    more = np.where(offered.needs & ~figures.meets, np.ceil(offered.replicas * MORE), offered.replicas)
    better = screen(curves, Loads(offered.concurrency, more)).meets & ~figures.meets
    offered = offered._replace(replicas=np.where(better, more, offered.replicas))
    return offered, screen(curves, Loads(offered.concurrency, offered.replicas))


def _columns(configs: Sequence[Config], offered: Offers, screened: Screened) -> dict[str, Floats]:
    """Columns that limits and orders look at, (N, C)."""
    point, early = screened.point, early_figures(configs, offered.replicas)
    return early | {
        "quality_score": np.array([config.quality for config in configs]) + 0 * early["n_gpus"],
        "usd_per_request": screened.cost.usd_per_request,
        "output_tokens_per_s": point.output_tokens_per_s,
        "output_tokens_per_s_per_gpu": point.output_tokens_per_s / early["n_gpus"],
        "output_tokens_per_s_per_request": point.output_tokens_per_s_per_request,
        "requests_per_s": point.requests_per_s,
        "ttft_ms": point.ttft_s * MS_PER_S,
        "e2e_ms": point.e2e_s * MS_PER_S,
    }


def _late(trials: Trials, wish: Wish) -> None:
    """Reasons that need pricing: capacity, room, objectives, least figures."""
    verdicts, figures, columns = trials.verdicts, trials.figures, trials.columns
    point = figures.point
    verdicts.against(
        "above_capacity",
        figures.above_capacity,
        HOPELESS,
        lambda i, j: rate_exceeded(point.requests_per_s[i, j], point.cap[i, j]),
    )
    room = trials.curves.room
    verdicts.against(
        "kv_pool_full",
        ~figures.holds,
        CROWDED * (1 + 1 / (2 + room)),
        lambda i, j: f"each replica has room for {room[j]:,.0f} request{'s' * (round(room[j]) != 1)} at once",
    )
    ratios = [
        seconds / limit for seconds, limit in zip(figures.tail, trials.curves.wishes[: len(figures.tail)], strict=True)
    ]
    worst = np.fmax.reduce(np.nan_to_num(ratios, nan=0.0))
    verdicts.against("slo_missed", ~figures.meets, worst, lambda i, j: _missed(trials, i, j))
    for bound, limit in limits.given(wish):
        if not bound.early and bound.column in columns:
            figure = columns[bound.column]
            away = limit / np.maximum(figure, limit / FAR)
            verdicts.against(
                bound.name, limits.broken(bound, limit, figure), away, partial(_said, bound, limit, figure)
            )


def _readable(trials: Trials, wish: Wish) -> None:
    """Refuse layers in host memory where answers come slower than one reads and no wish says how fast they must be."""
    wishes = trials.curves.wishes
    hosted = np.array([any(name in HOSTING for name, _ in config.settings) for config in trials.configs])
    stated = np.isfinite(wishes.tpot_s) | np.isfinite(wishes.e2e_s)
    if wish.min_output_tokens_per_s_per_request is None and np.any(hosted & ~stated):
        each = trials.columns["output_tokens_per_s_per_request"]
        trials.verdicts.against(
            "slower_than_read",
            hosted & ~stated & (each < READ_TOKENS_PER_S),
            READ_TOKENS_PER_S / np.maximum(each, TINY),
            lambda i, j: (
                f"with layers in host memory {each[i, j]:.2g} tokens/s for each user, slower than one reads "
                f"({READ_TOKENS_PER_S:g}); an objective on speed admits less"
            ),
        )


def _missed(trials: Trials, i: int, j: int) -> str:
    """Objectives that a load misses, in the words of the estimate."""
    percentile = trials.curves.deployments[j].row.scenario.slo_percentile or DEFAULT_PERCENTILE
    parts = []
    for word, seconds, wishes in zip(
        limits.OBJECTIVES.values(), trials.figures.tail, trials.curves.wishes, strict=False
    ):
        value, limit = seconds[i, j] * MS_PER_S, np.asarray(wishes)[j] * MS_PER_S
        if value > limit:
            took, most = told_apart_ms(value, limit)
            parts.append(f"p{percentile:g} {word} {took} is above {most}")
    return "; ".join(parts)


def _reached(trials: Trials, wish: Wish, ledger: Ledger) -> None:
    """Remember the best figure, among all that hold the load, for every objective and least figure that was given."""
    verdicts, figures, columns = trials.verdicts, trials.figures, trials.columns
    free = np.array([code in ("", "slo_missed", *LEAST) for code in verdicts.codes])[verdicts.first] & figures.holds
    watched = [
        (name, seconds * MS_PER_S, True)
        for name, seconds, limit in zip(limits.OBJECTIVES, figures.tail, trials.curves.wishes, strict=False)
        if np.any(np.isfinite(limit))
    ]
    watched += [
        (bound.name, columns[bound.column], False)
        for bound, _ in limits.given(wish)
        if not bound.early and bound.column in columns
    ]
    for name, values, less in watched:
        worst = np.inf if less else -np.inf
        usable = np.where(free & np.isfinite(values), values, worst)
        at = np.unravel_index(np.argmin(usable) if less else np.argmax(usable), usable.shape)
        if np.isfinite(usable[at]):
            ledger.reach(name, float(usable[at]), less, trials.configs[int(at[1])].columns)


def _keep(trials: Trials, ledger: Ledger) -> None:
    """Keep the best by every order, and those that nothing beats in quality, cost and latency at once."""
    configs, offered, verdicts, columns = trials.configs, trials.offered, trials.verdicts, trials.columns
    at = np.flatnonzero(verdicts.first == 0)
    flat = {name: np.ravel(columns[name])[at] for name in SORTED}
    if len(at) > MOST_KEPT:
        best = [np.argpartition(-scores(flat, by), MOST_KEPT)[:MOST_KEPT] for by in METRICS]
        chosen = np.union1d(np.concatenate(best), np.flatnonzero(front_mask(flat)))
        at, flat = at[chosen], {name: values[chosen] for name, values in flat.items()}
    rows, cells = np.unravel_index(at, verdicts.first.shape)
    for k, (i, j) in enumerate(zip(rows.tolist(), cells.tolist(), strict=True)):
        figures = {name: None if np.isnan(values[k]) else float(values[k]) for name, values in flat.items()}
        concurrency = float(offered.concurrency[i, 0])
        load = {} if np.isnan(concurrency) else {"concurrency": int(concurrency)}
        replicas = int(offered.replicas[i, j])
        layout = {"dp": replicas, "n_gpus": replicas * configs[j].layout.n_gpus}
        ledger.kept.append(Kept(configs[j].columns() | layout | load, figures))


def _refuse(trials: Trials, ledger: Ledger) -> None:
    """Count every reason; put the first ones in words, for the load of a configuration that comes nearest."""
    configs, verdicts = trials.configs, trials.verdicts
    total = np.bincount(np.ravel(verdicts.first), minlength=len(verdicts.codes))
    for code in np.flatnonzero(total[1:]) + 1:
        left = int(total[code])
        each = np.count_nonzero(verdicts.first == code, axis=0)
        nearest = np.argmin(np.where(verdicts.first == code, verdicts.distance, np.inf), axis=0)
        for j in np.flatnonzero(each)[: ledger.room()].tolist():
            i = int(nearest[j])
            why = verdicts.codes[code], verdicts.words[code](i, j)
            ledger.refuse(configs[j].columns, why, int(each[j]), float(verdicts.distance[i, j]))
            left -= int(each[j])
        ledger.reasons[verdicts.codes[code]] += left
