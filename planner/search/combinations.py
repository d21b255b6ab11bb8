"""Ways to run one model: engines, formats and divisions on every GPU, less those refused before pricing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.catalog import formats
from planner.errors import PlannerError
from planner.estimate.answer import shortfall
from planner.estimate.defaults import default_kv_format
from planner.estimate.deployments import Deployment, limits_of
from planner.estimate.library import Library
from planner.estimate.refine import refined
from planner.estimate.resolve import ResolvedRow, resolve, supported
from planner.formats import tensor_bytes
from planner.identity import Same
from planner.params import tensors
from planner.search import axes, limits
from planner.search.axes import Sizing
from planner.search.choose import MOST_GPUS
from planner.search.judge import judge
from planner.search.records import Columns, Config, Ledger, Place, Replica, Task
from planner.search.starting import PLACING, host_bytes
from planner.specs.engine import EngineSpec
from planner.specs.formats import FormatSpec, Level
from planner.specs.model import ModelSpec, Role
from planner.units import GIB

FAR = 1e9  # distance of what is refused before anything is priced


class Job(NamedTuple):
    """A task with its loads and with what it has found so far."""

    task: Task
    ledger: Ledger
    library: Library
    loads: Sequence[Sizing]


def places(job: Job, gpu_name: str) -> Iterator[ResolvedRow]:
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
    """Refuse a model on a GPU in an engine, whatever its formats and layout."""
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


def replicas(job: Job, gpu_name: str, row: ResolvedRow) -> Iterator[Replica]:
    """Every format, KV format and layout of a place that the masks let through."""
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
            judged = judge(row.model, name, kv, task.load.task_family, row.checks)
            loss = np.nan if judged.loss_points is None else judged.loss_points
            support = supported(name, kv, row.engine.id, Same(row.gpu))
            own = held._replace(weights=weights, kv_name=kv, kv=formats.kv_format(kv), support=support)
            for layout in layouts:
                config = Config(place, layout, price, judged.score, loss)
                if _let_through(job, least, device_bytes * layout.n_gpus + on_host, config):
                    yield Replica(config, Deployment(own, layout, tier))


def _held(job: Job, row: ResolvedRow, weights: FormatSpec) -> ResolvedRow:
    """The row with its checkpoint in this format: a draft model and published FP4 hold other tensors."""
    if row.draft is None and weights.family != "fp4":
        return row
    stored = row.scenario.model_copy(update={"weight_format": weights.id, "kv_format": None})
    return refined(resolve(stored, job.library), job.library)


def _unsupported(job: Job, row: ResolvedRow, place: Place) -> tuple[str, str]:
    """Code and reason why these formats are not run here; blank where they are."""
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
    """Least bytes that all GPUs of a replica hold together."""
    return _least(Same(model), Same(weights), Same(engine))


@lru_cache(maxsize=2**16)
def _least(model: Same[ModelSpec], weights: Same[FormatSpec], engine: Same[EngineSpec]) -> float:
    left_out = {*engine.value.weights.host_roles, Role.VISION, Role.MTP}
    on_gpu = np.array([tensor.role not in left_out for tensor in tensors(model.value)])
    return float(np.sum(tensor_bytes(model.value, weights.value, True) * on_gpu))
