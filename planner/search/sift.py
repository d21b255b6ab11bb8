"""From a model's combinations to those worth showing: masks first, then the rest is priced by the estimate's kernels.

One task is one model. What it hands back is small whatever the space: the best by every order, the first of what
was refused, and how many each reason refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from planner.catalog import formats
from planner.errors import PlannerError
from planner.estimate.answer import STOPS, shortfall
from planner.estimate.defaults import default_kv_format
from planner.estimate.deployments import Deployment, Deployments, limits_of
from planner.estimate.evidence import Stamp, folder_stamp
from planner.estimate.heap import busy
from planner.estimate.library import Library
from planner.estimate.memory_plans import Planned, planned
from planner.estimate.pricing import taken
from planner.estimate.quality import stored_checks
from planner.estimate.refine import refined, stored
from planner.estimate.resolve import ResolvedRow, resolve, supported
from planner.estimate.screen import curves, shares_memory
from planner.formats import tensor_bytes
from planner.formats.identity import Same
from planner.params import tensors
from planner.search import axes, limits
from planner.search.axes import Sizing
from planner.search.choose import MOST_GPUS, early, offers, reach_budgets, settle
from planner.search.judge import judge
from planner.search.order import foremost, patience
from planner.search.records import Columns, Config, Ledger, Place, Replica, Sifted, Task
from planner.search.starting import PLACING, host_bytes, with_other_settings
from planner.specs.engine import EngineSpec
from planner.specs.formats import FormatSpec, Level
from planner.specs.model import ModelSpec, Role
from planner.units import GIB

CHUNK = 1024  # replicas priced together, so that arrays stay in the cache
SET_ASIDE = 0.15  # most of a card that an engine sets aside and may be told not to
FAR = 1e9  # distance of what is refused before anything is priced


class Job(NamedTuple):
    """A task with what it has found so far."""

    task: Task
    ledger: Ledger
    library: Library
    loads: Sequence[Sizing]


@busy()
def sift(task: Task, stamp: Stamp | None = None) -> Sifted:
    """Everything that one model offers; `stamp` of the folders of runs, where many tasks share it."""
    brought = task.library
    library = brought._replace(
        stamp=folder_stamp() if stamp is None else stamp, checks=brought.checks + stored_checks(), observations=stored()
    )
    job = Job(task, Ledger(task.most), library, axes.loads(task.load, task.space))
    together: dict[tuple[int, int], list[Replica]] = {}  # that share an engine and a model's tensors
    for name in axes.chosen_gpus(task.load, task.space):
        for row in _places(job, name):
            for replica in _replicas(job, name, row):
                own = replica.deployment.row
                chunk = together.setdefault((id(own.engine), id(own.model)), [])
                chunk.append(replica)
                if len(chunk) >= CHUNK:
                    _price(job, own.engine, chunk)
                    chunk.clear()
    for chunk in filter(None, together.values()):
        _price(job, chunk[0].deployment.row.engine, chunk)
    found = job.ledger.sifted()
    bearable = patience(vars(task.load), task.wish)
    return found._replace(kept=foremost(found.kept, task.wish, task.most, bearable))


def _places(job: Job, gpu_name: str) -> Iterator[ResolvedRow]:
    """The model on one GPU in every engine: a row with the load's blanks filled."""
    task = job.task
    gpu = job.library.gpu(gpu_name)
    for engine in axes.chosen_engines(task.load, task.space, gpu):
        names = {"model": task.model, "gpu": gpu_name, "engine": engine, "weight_format": None, "kv_format": None}
        blank = dict.fromkeys(("n_gpus", "tp", "pp", "ep", "attention_dp", "dp")) | limits.price_of(gpu, task.wish)
        try:
            row = resolve(task.load.model_copy(update=names | blank), job.library)
        except PlannerError as error:
            _refuse_place(job, names, ("error", str(error)))
            continue
        if too_long := _beyond(row):
            _refuse_place(job, names, ("beyond_the_model", too_long))
        else:
            yield refined(row, job.library)


def _refuse_place(job: Job, columns: Columns, why: tuple[str, str]) -> None:
    """Count out a model on a GPU in an engine, whatever its formats and division."""
    job.ledger.combinations += len(job.loads)
    job.ledger.refuse(lambda: columns, why, len(job.loads), FAR)


def _beyond(row: ResolvedRow) -> str:
    """Why a request is longer than the model was made for; blank where it is not, or the load states the length."""
    s = row.scenario
    longest = max(s.input_tokens or 0, s.input_tokens_p95 or 0) + max(s.output_tokens or 0, s.output_tokens_p95 or 0)
    if s.max_model_len or longest <= row.model.max_position:
        return ""
    return (
        f"a request of {longest:,} tokens is longer than the {row.model.max_position:,} that the model was made for; "
        "where it can be stretched, state max_model_len"
    )


def _replicas(job: Job, gpu_name: str, row: ResolvedRow) -> Iterator[Replica]:
    """Every format, KV format and division of a place that the masks let through."""
    task, space = job.task, job.task.space
    most = axes.most_gpus(task.load, space, task.wish.max_gpus or MOST_GPUS)
    layouts = axes.divisions(row.model, row.engine, space, task.load, most)
    device_bytes, on_host = (row.scenario.device_gib or 0) * GIB, host_bytes(row)
    tier = limits_of(row)
    placed = any(getattr(row.scenario, name) for name in PLACING)
    price = row.scenario.usd_per_gpu_hour if row.scenario.usd_per_gpu_hour is not None else np.nan
    for name in axes.chosen_formats(row.model, space, row.engine, row.gpu):
        weights = formats.weight_format(name)
        unfit = axes.unfit(row.model, name)
        least = 0.0 if placed else _least_bytes(row.model, weights, row.engine)
        held = _held(job, row, weights)
        own_kv = task.load.kv_format or default_kv_format(held.model, weights, row.engine, row.gpu)
        for kv in space.kv_formats or (own_kv,):
            job.ledger.combinations += len(layouts) * len(job.loads)
            place = Place(task.model, name, kv, row.engine.id, gpu_name, row.gpu)
            why = ("format_not_made", unfit) if unfit else _unsupported(job, row, place)
            if why[0]:
                job.ledger.refuse(place.columns, why, len(layouts) * len(job.loads), FAR)
                continue
            found = judge(row.model, name, kv, task.load.task_family, row.checks)
            loss = np.nan if found.loss_points is None else found.loss_points
            support = supported(name, kv, row.engine.id, Same(row.gpu))
            own = held._replace(weights=weights, kv_name=kv, kv=formats.kv_format(kv), support=support)
            for layout in layouts:
                config = Config(place, layout, price, found.score, loss)
                if _let_through(job, least, device_bytes * layout.n_gpus + on_host, config):
                    yield Replica(config, Deployment(own, layout, tier))


def _held(job: Job, row: ResolvedRow, weights: FormatSpec) -> ResolvedRow:
    """The row with its checkpoint in this format: a draft model and published FP4 hold other tensors."""
    if row.draft is None and weights.family != "fp4":
        return row
    stored = row.scenario.model_copy(update={"weight_format": weights.id, "kv_format": None})
    return refined(resolve(stored, job.library), job.library)


def _unsupported(job: Job, row: ResolvedRow, place: Place) -> tuple[str, str]:
    """Why nobody would run these formats here; blank when somebody would."""
    level, reason, _ = supported(place.weights, place.kv, place.engine, Same(row.gpu))
    if level is Level.UNSUPPORTED:
        return "unsupported_format", reason
    if level is Level.UNKNOWN and place.weights not in job.task.space.formats:
        return "unknown_support", reason
    return "", ""


def _let_through(job: Job, least_bytes: float, room_bytes: float, config: Config) -> bool:
    """Whether a configuration can be divided so, and its weights alone leave anything of the memory."""
    if config.layout.invalid:
        job.ledger.refuse(config.columns, ("tp_invalid", config.layout.invalid), len(job.loads), FAR)
        return False
    if least_bytes <= room_bytes:
        return True
    short = shortfall((least_bytes - room_bytes) / config.layout.n_gpus)
    why = "out_of_weights", f"the weights exceed the memory{short}"
    job.ledger.refuse(config.columns, why, len(job.loads), FAR * least_bytes / room_bytes)
    return False


def _least_bytes(model: ModelSpec, weights: FormatSpec, engine: EngineSpec) -> float:
    """Bytes that all GPUs of a replica hold together at the very least."""
    return _least(Same(model), Same(weights), Same(engine))


@lru_cache(maxsize=2**16)
def _least(model: Same[ModelSpec], weights: Same[FormatSpec], engine: Same[EngineSpec]) -> float:
    left_out = {*engine.value.weights.host_roles, Role.VISION, Role.MTP}
    on_gpu = np.array([tensor.role not in left_out for tensor in tensors(model.value)])
    return float(np.sum(tensor_bytes(model.value, weights.value, True) * on_gpu))


def _price(job: Job, engine: EngineSpec, replicas: Sequence[Replica]) -> None:
    """Memory, then load curves of what starts, then every load; chunks whose loads have memory of their own apart."""
    asked = [job.loads] if shares_memory(engine) else [[load] for load in job.loads]
    for loads in asked:
        affordable = _within_budget(job, replicas, loads)
        if affordable:
            _price_loads(job, engine, affordable, loads)


def _within_budget(job: Job, replicas: Sequence[Replica], loads: Sequence[Sizing]) -> list[Replica]:
    """Those of which at least one load stays within the budgets; the others are refused unpriced."""
    configs = [replica.config for replica in replicas]
    offered = offers(configs, loads)
    found = early(configs, offered, job.task.wish)
    fine = np.any(found.first == 0, axis=0)
    refused = [config for config, good in zip(configs, fine.tolist(), strict=True) if not good]
    if refused:
        reach_budgets(refused, offers(refused, loads), job.task.wish, job.ledger)
    for j in np.flatnonzero(~fine).tolist():
        code = int(found.first[0, j])
        why = found.codes[code], found.words[code](0, j)
        job.ledger.refuse(configs[j].columns, why, len(loads), float(found.distance[0, j]))
    return [replica for replica, good in zip(replicas, fine.tolist(), strict=True) if good]


def _price_loads(job: Job, engine: EngineSpec, replicas: Sequence[Replica], loads: Sequence[Sizing]) -> None:
    """Plan and price what starts as it is, or else with other settings; refuse the rest."""
    most = max((load.concurrency or job.task.load.concurrency or 1) for load in loads)
    fewest = np.min(offers([replica.config for replica in replicas], loads).replicas, axis=0)
    each = most / fewest
    in_flight = np.ones(len(replicas)) if shares_memory(engine) else each
    deployments = Deployments(replica.deployment for replica in replicas)
    memory = planned(engine, deployments, in_flight)
    starts = memory.plan.verdict.starts
    able = np.flatnonzero(~starts & _may_start(replicas, memory, fewest)).tolist()
    changed = with_other_settings(engine, [replicas[j] for j in able], each[able])
    instead = {j: one for j, one in zip(able, changed, strict=True) if one}
    for j in np.flatnonzero(~starts).tolist():
        if j not in instead:
            _refuse_unstarted(job, replicas[j], memory, j, len(loads))
    kept = np.array([j for j in range(len(replicas)) if starts[j] or j in instead], dtype=np.intp)
    run = [instead.get(j, replicas[j]) for j in kept.tolist()]
    if run:
        deployments = Deployments(replica.deployment for replica in run) if instead else deployments.taken(kept)
        plans = planned(engine, deployments, in_flight[kept]) if instead else taken(memory, kept)
        settle(
            [replica.config for replica in run], curves(engine, deployments, plans), loads, job.task.wish, job.ledger
        )


def _may_start(replicas: Sequence[Replica], memory: Planned, fewest: Any) -> Any:
    """Which may start with other settings: what lacks little, or has a host's memory to itself."""
    device = np.array([(replica.deployment.row.scenario.device_gib or 0) * GIB for replica in replicas])
    hosted = np.array([host_bytes(replica.deployment.row) > 0 for replica in replicas]) & (fewest == 1)
    return hosted | (memory.plan.verdict.shortfall_bytes < SET_ASIDE * device)


def _refuse_unstarted(job: Job, replica: Replica, memory: Planned, at: int, loads: int) -> None:
    """Count out a replica that does not start, with what it lacks."""
    code, words = STOPS[str(memory.plan.verdict.breaks[at])]
    short = float(memory.plan.verdict.shortfall_bytes[at])
    distance = FAR * (1 + short / (replica.deployment.row.scenario.device_gib or 1) / GIB)
    job.ledger.refuse(replica.config.columns, (code, words + shortfall(short)), loads, distance)
