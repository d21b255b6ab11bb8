"""The search itself: every valid combination of a space under one load, ranked, each rejected with its first reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from planner.estimate import NO_LIBRARY, Library, estimate
from planner.estimate.bulk import bulk_work
from planner.estimate.columns import EstimateRow
from planner.estimate.evidence import folder_stamp
from planner.estimate.quality import Results, stored_checks
from planner.explain.words import HOLDING
from planner.search import axes, limits
from planner.search.choose import ALONE
from planner.search.emptied import emptied
from planner.search.judge import judge
from planner.search.order import ENDLESS, Patience, foremost, near_ties, ordered, pareto, patience, plainest_first
from planner.search.records import Reached, Refused, Sifted, Task
from planner.search.sift import sift
from planner.search.starting import SETTABLE
from planner.specs.gpu import GpuSpec
from planner.specs.scenario import Scenario
from planner.specs.wish import Space, Wish
from planner.workers import mapped, usable

Progress = Callable[[int, int], None]
LONG = 1000  # models times GPUs from which it pays to start other processes, some three seconds of one
MOST_CANDIDATES = 200
MOST_REJECTED = 2000
LEAST_OF_MODEL = 100
MOST_MERGED = 600  # candidates of several parts together, before the estimate has the last word
MOST_TIED = 50


class Recommendation(NamedTuple):
    """Rows of `Estimate.rows()` with what the search adds.

    Candidates, best first: `rank` from 1, `replicas`, `gpus_per_replica`, `power_w`, `quality_score`,
    `quality_loss_points`, `quality_evidence`, `pareto`, `tie_with` (ranks whose intervals overlap), `settings_needed`
    (columns that the search set because it does not start otherwise, separated by blanks).
    Rejected, nearest first: columns of the scenario, `reason_code`, `reason`, the first that applies, and for how
    many `combinations` it stands. Both lists are cut; `reasons` counts all.
    """

    candidates: list[EstimateRow]
    rejected: list[EstimateRow]
    pareto: list[int]  # ranks
    near_ties: list[int]  # ranks that tie with the winner
    reasons: Mapping[str, int]  # combinations by why they were rejected
    combinations: int  # all, masked ones among them
    priced: int
    best: Mapping[str, Reached]  # the best figure that anything reaches, by the objective or limit given
    verdict: str  # in a sentence: which filter left nothing, which limit binds; blank where there is a winner


@bulk_work()
def recommend(
    load: Scenario,
    space: Space,
    wish: Wish,
    library: Library = NO_LIBRARY,
    progress: Progress | None = None,
) -> Recommendation:
    """Rank what `space` allows under `load`, whose own model, GPU, format and layout stand where the space is empty.

    `progress` is called with the number of models done and their total. From LONG models times GPUs on other processes
    take their share. `library` holds models, GPUs, runs and
    quality checks beyond the catalogue's. Raises PlannerError for names that nobody knows and for a price of 0.

    >>> load = Scenario(model="qwen3-32b", gpu="l40s", n_gpus=2, concurrency=8)
    >>> found = recommend(load, Space(), Wish())
    >>> found.candidates[0]["rank"], found.candidates[0]["holds_load"], len(found.rejected) > 0
    (1, True, True)
    """
    found = []
    todo, places = tasks(load, space, wish, library), len(axes.chosen_gpus(load, space))
    processes = usable() if len(todo) * places >= LONG else 1
    for done, part in enumerate(mapped(partial(sift, stamp=folder_stamp()), todo, processes), 1):
        found.append(part)
        if progress:
            progress(done, len(todo))
    return judged(load, wish, found, library)


def tasks(load: Scenario, space: Space, wish: Wish, library: Library = NO_LIBRARY) -> list[Task]:
    """The parts of a search, one for each model; `judged` puts what `sift` makes of them together."""
    asked = limits.under(load, wish)
    axes.check(asked, space, library)
    names = axes.chosen_models(load, space)
    most = max(MOST_MERGED // max(len(names), 1), LEAST_OF_MODEL)
    return [Task(asked, name, space, wish, most, _needed(library, name, load.draft_model or "")) for name in names]


def _needed(library: Library, *names: str) -> Library:
    """A library whose models are these alone: what a task carries to another process."""
    return library._replace(models={name: library.models[name] for name in names if name in library.models})


def judged(load: Scenario, wish: Wish, parts: Sequence[Sifted], library: Library = NO_LIBRARY) -> Recommendation:
    """The recommendation from all parts of a search."""
    asked = limits.under(load, wish)
    sits = patience(vars(asked), wish)
    whole = merged(wish, parts, sits)
    best = foremost(whole.kept, wish, MOST_CANDIDATES, sits)
    scenarios = [scenario_of(asked, one.columns, wish, library) for one in best]
    checks = library.checks + stored_checks()
    priced = estimate(scenarios, library=library).rows()
    rows = [
        _with_worth(row, one, library, checks) | {"settings_needed": _needed_settings(asked, one)}
        for row, one in zip(priced, scenarios, strict=True)
    ]
    faults = [_fault(row, wish) for row in rows]
    kept = ordered([row for row, (code, _) in zip(rows, faults, strict=True) if not code], wish, sits)
    kept = plainest_first(kept, wish)
    late = [Refused(one.columns, *why, 0.0, 1) for one, why in zip(best, faults, strict=True) if why[0]]
    refused = [*late, *whole.refused]
    reasons = whole.reasons + Counter(one.code for one in late)
    front = _ranked(kept, wish)
    return Recommendation(
        kept,
        [_refused_row(asked, one) for one in refused],
        front,
        kept[0]["tie_with"] if kept else [],
        dict(reasons.most_common()),
        whole.combinations,
        whole.priced,
        {name: reached for name, reached in whole.best.items() if not name.endswith(ALONE)},
        "" if kept else emptied(asked, wish, reasons, best_of([whole.best, *_late_best(rows, wish)]), refused),
    )


def _ranked(rows: Sequence[EstimateRow], wish: Wish) -> list[int]:
    """Number the rows, mark the front and the ties; the ranks of the front."""
    ties = near_ties(rows, wish.rank_by, MOST_TIED)
    front = {index + 1 for index in pareto(rows)}
    for rank, row in enumerate(rows, 1):
        others = ties[rank - 1] if rank <= len(ties) else []
        row |= {"rank": rank, "pareto": rank in front, "tie_with": [other + 1 for other in others]}
    return sorted(front)


def merged(wish: Wish, parts: Sequence[Sifted], sits: Patience = ENDLESS) -> Sifted:
    """Parts of a search as one, cut to what may still come first."""
    kept = [one for part in parts for one in part.kept]
    refused = sorted((one for part in parts for one in part.refused), key=lambda one: one.distance)
    return Sifted(
        foremost(kept, wish, MOST_MERGED, sits),
        refused[:MOST_REJECTED],
        sum((part.reasons for part in parts), Counter()),
        best_of([part.best for part in parts]),
        sum(part.combinations for part in parts),
        sum(part.priced for part in parts),
    )


def scenario_of(load: Scenario, columns: Mapping[str, Any], wish: Wish, library: Library) -> Scenario:
    """What a candidate is as a scenario of its own."""
    return load.model_copy(update=dict(columns) | limits.price_of(library.gpu(columns["gpu"]), wish))


def _fault(row: EstimateRow, wish: Wish) -> tuple[str, str]:
    """Code and words of the first reason against a priced row; blank for a candidate."""
    if row["error"]:
        return "error", row["error"]
    if row["verdict"] not in HOLDING or not row["meets_slo"]:
        return row["reason_code"], row["reason"]
    return limits.fault_of(row, wish)


def _with_worth(row: EstimateRow, asked: Scenario, library: Library, checks: Results) -> EstimateRow:
    """The row with its replicas, its watts and its quality; `asked` names model and GPU as the caller knows them."""
    kinds = row["weight_format"] or "", row["kv_format"] or ""
    found = judge(library.model(asked.model or ""), *kinds, row["task_family"], checks)
    return row | {
        "replicas": row["dp"] or 1,
        "gpus_per_replica": (row["tp"] or 1) * (row["pp"] or 1),
        "power_w": _watts(row, library.gpu(asked.gpu or "")),
        "quality_score": found.score,
        "quality_loss_points": found.loss_points,
        "quality_evidence": found.evidence or None,
    }


def _needed_settings(load: Scenario, asked: Scenario) -> str:
    """Names of the engine's columns that the search set beyond the load's own."""
    return " ".join(name for name in SETTABLE if getattr(load, name) != getattr(asked, name))


def _watts(row: EstimateRow, gpu: GpuSpec) -> float | None:
    board = row["power_limit_w"] or gpu.tdp_w
    return None if board is None else float(board) * (row["n_gpus"] or 1)


def _refused_row(load: Scenario, one: Refused) -> EstimateRow:
    """A rejected combination as a row: what it is and why it is out."""
    asked = {
        name: getattr(load, name) for name in ("input_tokens", "output_tokens", "concurrency", "request_rate_per_s")
    }
    return asked | one.columns | {"reason_code": one.code, "reason": one.reason, "combinations": one.combinations}


def best_of(parts: Iterable[Mapping[str, Reached]]) -> dict[str, Reached]:
    """The best figure of several parts, by limit."""
    found: dict[str, Reached] = {}
    for part in parts:
        for name, reached in part.items():
            if name not in found or (reached.value < found[name].value) == limits.less_is_better(name):
                found[name] = reached
    return found


def _late_best(rows: Sequence[EstimateRow], wish: Wish) -> Iterator[dict[str, Reached]]:
    """The best of least figures that only an estimate tells."""
    for row in rows:
        for bound, _ in limits.given(wish):
            if bound.least and row[bound.column] is not None:
                yield {bound.name: Reached(float(row[bound.column]), row)}
