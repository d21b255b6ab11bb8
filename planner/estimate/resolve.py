"""From a scenario to specs: names are looked up, blank columns filled, faults reported in one line.

Resolving is the only part of an estimate that runs Python row by row; lookups are cached, so a long batch costs little.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from planner.catalog import engines, formats, models
from planner.catalog import support as supports
from planner.catalog.calibrated import Source
from planner.catalog.checkpoints import checkpoint
from planner.catalog.links import check_interconnect
from planner.catalog.quality import family
from planner.catalog.values import shares_of
from planner.errors import BadValue
from planner.estimate.defaults import default_engine, default_kv_format, default_load, loaded_format, own_format
from planner.estimate.drafting import Drafter, Target, drafter, drafting_defaults
from planner.estimate.evidence import source_for
from planner.estimate.factors import NOT_REFINED, Refined
from planner.estimate.library import Library
from planner.estimate.matched import as_published, with_router, with_states, without_windows
from planner.identity import Same
from planner.specs.engine import EngineSpec
from planner.specs.evidence import Family
from planner.specs.formats import FormatSpec, KvFormatSpec, Level, Support
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.specs.quality import QualityResult
from planner.specs.scenario import Scenario
from planner.units import GIB

ENGINES_OF = {  # columns that only these engines have
    "cpu_offload_gib": ("vllm", "sglang"),
    "scheduler_recv_interval": ("sglang",),
    "n_gpu_layers": ("llama.cpp",),
    "n_cpu_moe": ("llama.cpp",),
    "split_mode": ("llama.cpp",),
    "tensor_split": ("llama.cpp",),
    "backend": ("llama.cpp",),
}


class ResolvedRow(NamedTuple):
    """A scenario and the specs behind its names."""

    scenario: Scenario
    model: ModelSpec
    weights: FormatSpec
    kv_name: str
    kv: tuple[KvFormatSpec, KvFormatSpec]
    engine: EngineSpec
    gpu: GpuSpec
    support: Support
    checkpoint: str
    family: Family  # of tasks, that quality is judged by
    checks: tuple[QualityResult, ...] = ()
    draft: Drafter | None = None
    source: Source | None = None  # of the kernels' rates; None: the datasheet
    refined: Refined = NOT_REFINED  # by observations of this engine on this GPU


Named = tuple[ResolvedRow, dict[str, Any]]  # specs, and the columns that name them filled in
Known = dict[tuple[Any, ...], Named]  # by the columns SPECS_FROM
SPECS_FROM = itemgetter(
    "model", "gpu", "task_family", "interconnect", "images_per_request", "weight_format", "kv_format", "engine",
    "engine_version", "tp", "pp", "power_limit_w", "draft_model", "speculative_tokens", "acceptance_rate",
    "prefix_caching", "task", *ENGINES_OF,
)  # fmt: skip


def resolve(scenario: Scenario, library: Library, known: Known | None = None) -> ResolvedRow:
    """Look up names and fill in defaults. Raises PlannerError with one line that names the column.

    `known` is filled with the rows of this library, so that scenarios with the same names share one look-up.
    """
    key = SPECS_FROM(vars(scenario))
    found = known.get(key) if known is not None else None
    if found is None:
        found = _named(scenario, library)
        if known is not None:
            known[key] = found
    row, names = found
    load = default_load(scenario, names["task"], row.model)
    if (scenario.shared_prefix_tokens or 0) > load["input_tokens"]:
        raise BadValue(
            f"column 'shared_prefix_tokens': {scenario.shared_prefix_tokens:,} is more than input_tokens, which "
            f"include it; give 0 to {load['input_tokens']:,}, or a longer prompt"
        )
    if scenario.run_requests and not scenario.request_rate_per_s:
        raise BadValue(
            "column 'run_requests': counts what is sent at a rate; give request_rate_per_s, or waves instead"
        )
    if scenario.tpot_slo_ms and load["output_tokens"] == 0:
        raise BadValue(
            f"column 'tpot_slo_ms': {row.model.id or 'the model'} writes no tokens at this load, so there is no time "
            "between them; bound ttft_slo_ms or e2e_slo_ms instead"
        )
    values = names | load | _device(scenario, row.gpu)
    return ResolvedRow(scenario.filled(values), *row[1:])


def _named(scenario: Scenario, library: Library) -> Named:
    row = _looked_up(scenario, library)
    names: dict[str, Any] = {
        "weight_format": row.weights.id,
        "kv_format": row.kv_name,
        "engine": row.engine.id,
        "engine_version": row.engine.version,
        "backend": scenario.backend or engines.usual_backend(row.engine.id, row.gpu.vendor),
        "gpu": scenario.gpu if scenario.gpu in library.gpus else row.gpu.id,
        "task": scenario.task or row.model.task.value,
    }
    if scenario.task_family:
        names["task_family"] = row.family.id
    return row, names | drafting_defaults(scenario)


def _looked_up(scenario: Scenario, library: Library) -> ResolvedRow:
    """The specs behind the names of a scenario."""
    for required in ("model", "gpu"):
        if not getattr(scenario, required):
            raise BadValue(f"column {required!r} is blank; 'planner {required}s' lists what is known")
    task = family(scenario.task_family)
    found, gpu = library.resolved(scenario.model or ""), library.gpu(scenario.gpu or "")
    check_interconnect(gpu, scenario.interconnect)
    if scenario.images_per_request and found.model.vision is None:
        raise BadValue(f"column 'images_per_request': {found.model.id} has no image encoder")
    own = found.weight_format or own_format(found.model)
    weights = formats.weight_format(scenario.weight_format or own)
    engine = engines.engine(scenario.engine or default_engine(weights, gpu), scenario.engine_version, scenario.backend)
    if scenario.weight_format is None:
        weights = formats.weight_format(loaded_format(own, found.model, engine))
    if engine.id == "llama.cpp":
        weights = formats.as_gguf(weights)
    as_named = found  # before the published FP4 checkpoint takes its place
    found = as_published(found, weights)
    _check_engine_columns(scenario, engine, gpu)
    if not engine.cache.windows:
        found = found._replace(model=without_windows(Same(found.model)))
    engine = with_router(Same(engine), Same(found.model))
    engine = with_states(Same(engine), Same(found.model), scenario.prefix_caching is not False)
    target = Target(found.model, weights, engine.weights.draft_vocabulary)
    kv_name = scenario.kv_format or default_kv_format(found.model, weights, engine, gpu)
    return ResolvedRow(
        scenario=scenario,
        model=found.model,
        weights=weights,
        kv_name=kv_name,
        kv=formats.kv_format(kv_name),
        engine=engine,
        gpu=gpu,
        support=supported(weights.id, kv_name, engine.id, Same(gpu)),
        checkpoint=_checkpoint(as_named, weights),
        family=task,
        checks=library.checks,
        draft=drafter(scenario, target, lambda name: _draft_model(name, library)),
        source=source_for(gpu, library.runs, library.stamp),
    )


def _draft_model(name: str, library: Library) -> tuple[ModelSpec, FormatSpec]:
    """A draft model and the format of its own checkpoint."""
    found = library.resolved(name)
    return found.model, formats.weight_format(found.weight_format or own_format(found.model))


def _check_engine_columns(scenario: Scenario, engine: EngineSpec, gpu: GpuSpec) -> None:
    """Refuse columns of other engines, and a power limit where nothing says what the full power is."""
    for name, engine_ids in ENGINES_OF.items():
        if getattr(scenario, name) is not None and engine.id not in engine_ids:
            raise BadValue(f"column {name!r} is for {' and '.join(engine_ids)}; {engine.name} has no such setting")
    built = engines.backends(engine.id, gpu.vendor)
    if scenario.backend and scenario.backend not in built:
        known = " or ".join(built) or "nothing that is modelled"
        raise BadValue(f"column 'backend': {engine.name} on {gpu.id} is built for {known}, not {scenario.backend}")
    if (scenario.split_mode == "row" or (scenario.tp or 1) > 1) and scenario.tensor_split:
        raise BadValue("column 'tensor_split' is modelled with split_mode layer; leave it blank with row")
    if scenario.tensor_split and scenario.pp and len(shares_of(scenario.tensor_split)) != scenario.pp:
        raise BadValue(f"column 'tensor_split': {scenario.tensor_split[:40]!r} does not name {scenario.pp} GPUs")
    if scenario.power_limit_w and not gpu.tdp_w:
        raise BadValue(f"column 'power_limit_w': the profile of {gpu.id} states no tdp_w")


def _device(scenario: Scenario, gpu: GpuSpec) -> dict[str, Any]:
    filled: dict[str, Any] = {
        "device_gib": scenario.device_gib or gpu.device_bytes / GIB,
        "reserved_gib": scenario.reserved_gib or 0.0,
        "copies_per_gpu": scenario.copies_per_gpu or 1,
    }
    if scenario.usd_per_gpu_hour is None and gpu.price:
        filled["usd_per_gpu_hour"] = gpu.price.usd_per_hour
    return filled


def _checkpoint(resolved: models.Resolved, weights: FormatSpec) -> str:
    """The checkpoint to download: the named one if it has this format, else a published one, else how to make it."""
    stated = resolved.weight_format or own_format(resolved.model)
    if stated == weights.id and resolved.checkpoint:
        return resolved.checkpoint
    return checkpoint(resolved.model, weights, "" if resolved.weight_format else resolved.checkpoint)


@lru_cache(maxsize=2**18)  # of a whole catalogue
def supported(format_id: str, kv_name: str, engine_id: str, gpu: Same[GpuSpec]) -> Support:
    """Support of the weight format; where the engine lacks the KV format, that it is unsupported and why."""
    found = supports.support(formats.weight_format(format_id), engine_id, gpu.value)
    if found.level is Level.UNSUPPORTED:
        return found
    caches = (supports.support(spec, engine_id, gpu.value) for spec in formats.kv_format(kv_name))
    return next(
        (
            cache._replace(reason=f"KV cache in {kv_name}: {cache.reason}")
            for cache in caches
            if cache.level is Level.UNSUPPORTED
        ),
        found,
    )
