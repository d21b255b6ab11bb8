"""From a fine-tuning run to specs: names looked up, blanks filled, contradictions said in one line."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from planner.catalog import finetune as constants
from planner.catalog import gpus, models
from planner.catalog.formats import weight_format
from planner.errors import BadValue
from planner.estimate.library import NO_LIBRARY, Library
from planner.specs.finetune import FinetuneScenario, Framework
from planner.specs.model import ModelSpec
from planner.training import Recipe
from planner.training.states import ZERO
from planner.units import GIB

DEFAULT_RANK = 16
DEFAULT_SEQ_LEN = 2048
DEFAULT_TARGETS = "all-linear"
QLORA_FORMAT = "bnb-nf4-dq"
SIXTEEN_BIT = ("bf16", "fp16", "fp32")
ADAPTER_COLUMNS = ("lora_rank", "lora_targets", "train_embeddings")


class ResolvedFinetune(NamedTuple):
    """A scenario with every default filled in, and what its names stand for."""

    scenario: FinetuneScenario
    model: ModelSpec
    recipe: Recipe


def resolve(scenario: FinetuneScenario, library: Library = NO_LIBRARY) -> ResolvedFinetune:
    """Look up names and fill defaults. Raises PlannerError with one line that names the column."""
    if not scenario.model:
        raise BadValue("column 'model' is blank; 'planner models' lists what is known")
    given = library.models.get(scenario.model)
    found = models.Resolved(given, None, "") if given else _model(scenario.model)
    framework = constants.framework(scenario.framework or "transformers")
    filled = scenario.model_copy(
        update={"model": scenario.model if given else found.model.id, "framework": framework.id}
        | _device(scenario, library)
        | _method(scenario, found)
        | _settings(scenario)
    )
    filled = filled.model_copy(update=_habits(filled, framework))
    _check(scenario, filled)
    return ResolvedFinetune(filled, found.model, _recipe(filled, framework))


def _device(scenario: FinetuneScenario, library: Library) -> dict[str, Any]:
    """The card, where one is named; without one the answer says what is needed."""
    filled: dict[str, Any] = {"n_gpus": scenario.n_gpus or 1, "reserved_gib": scenario.reserved_gib or 0.0}
    if scenario.gpu:
        gpu = library.gpus.get(scenario.gpu) or _gpu(scenario.gpu)
        filled |= {"gpu": gpu.id, "device_gib": scenario.device_gib or gpu.device_bytes / GIB}
    return filled


def _method(scenario: FinetuneScenario, resolved: models.Resolved) -> dict[str, Any]:
    """What is trained, and how the rest is stored: an id that states a quantized format means QLoRA."""
    own = resolved.weight_format if resolved.weight_format not in SIXTEEN_BIT else None
    method = scenario.method or ("qlora" if own or scenario.weight_format not in (None, *SIXTEEN_BIT) else "lora")
    stored = scenario.weight_format or (own or QLORA_FORMAT if method == "qlora" else "bf16")
    filled: dict[str, Any] = {"method": method, "weight_format": weight_format(stored).id}
    if method != "full":
        filled["lora_rank"] = scenario.lora_rank or DEFAULT_RANK
        filled["lora_targets"] = scenario.lora_targets or DEFAULT_TARGETS
        filled["train_embeddings"] = bool(scenario.train_embeddings)
    return filled


def _settings(scenario: FinetuneScenario) -> dict[str, Any]:
    """Numbers and switches that no framework decides."""
    return {
        "batch_size": scenario.batch_size or 1,
        "seq_len": scenario.seq_len or DEFAULT_SEQ_LEN,
        "grad_accum": scenario.grad_accum or 1,
        "sharding": scenario.sharding or ("zero2" if (scenario.n_gpus or 1) > 1 else "none"),
        "flash_attention": scenario.flash_attention is not False,
        "compile": bool(scenario.compile),
        "optimizer_in_backward": bool(scenario.optimizer_in_backward),
        "offload_optimizer": bool(scenario.offload_optimizer),
    }


def _habits(scenario: FinetuneScenario, framework: Framework) -> dict[str, Any]:
    """What the framework does unless told otherwise. DeepSpeed keeps fp32 master weights of its own."""
    usual = framework.full_precision if scenario.method == "full" else framework.adapter_precision
    loss = scenario.loss or constants.usual_loss(framework, scenario.framework_version)
    return {
        "optimizer": constants.optimizer(scenario.optimizer or framework.optimizer).id,
        "loss": constants.loss(loss).id,
        "gradient_checkpointing": scenario.gradient_checkpointing or framework.gradient_checkpointing,
        "precision": scenario.precision or ("master" if scenario.sharding in ZERO else usual),
    }


def _check(asked: FinetuneScenario, run: FinetuneScenario) -> None:
    """Refuse what contradicts itself."""
    if run.method == "full":
        for name in ADAPTER_COLUMNS:
            if getattr(asked, name):
                raise BadValue(f"column {name!r} needs method lora or qlora; full fine-tuning has no adapters")
    quantized = run.weight_format not in SIXTEEN_BIT
    if run.method == "full" and quantized:
        raise BadValue(f"weight_format {run.weight_format!r}: full fine-tuning trains 16-bit weights; use qlora")
    if run.method == "qlora" and not quantized:
        raise BadValue(f"weight_format {run.weight_format!r} is not quantized; use method lora, or leave it blank")
    if run.optimizer_in_backward and (run.grad_accum or 1) > 1:
        raise BadValue(f"grad_accum {run.grad_accum}: optimizer_in_backward steps at every micro-batch; use 1")


def _recipe(run: FinetuneScenario, framework: Framework) -> Recipe:
    data = constants.constants()
    tables = "bf16" if run.precision == "autocast" else run.precision or "bf16"
    return Recipe(
        base=weight_format(run.weight_format or "bf16"),
        method=run.method or "lora",
        targets=constants.targets(run.lora_targets or DEFAULT_TARGETS),
        rank=run.lora_rank or DEFAULT_RANK,
        tables=bool(run.train_embeddings),
        widths=data.precisions[run.precision or "bf16"],
        table_widths=data.precisions[tables],  # modules_to_save are copied in the base's own type
        optimizer=constants.optimizer(run.optimizer or framework.optimizer),
        loss=constants.loss(run.loss or framework.loss),
        framework=framework,
        checkpointing=run.gradient_checkpointing or framework.gradient_checkpointing,
        scores=run.flash_attention is False,
        compiled=bool(run.compile),
    )


_model = lru_cache(maxsize=256)(models.resolve)
_gpu = lru_cache(maxsize=256)(gpus.gpu)
