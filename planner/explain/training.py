"""A fine-tuning run in words: what its peak is made of, the formulas behind it, and the cheapest changes that fit.

Everything reads rows of `planner.finetuning.estimate_finetune(...).rows()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.catalog import finetune as catalog
from planner.catalog import gpus
from planner.explain.changes import LARGER_GPUS, Change, Proposal
from planner.explain.formulas import CLOSE, Formula
from planner.explain.words import Verdict, figure, format_name, gpu_name, interval, model_name
from planner.finetuning.answer import FinetuneRow
from planner.specs.finetune import FinetuneScenario
from planner.training.states import SHARDS_STATES, SHARDS_WEIGHTS
from planner.units import GIB

STAYS = ("weights_gib", "adapters_gib", "optimizer_gib", "buffers_gib")
MOMENTS = {  # what stands at the peak beside what stays, by the moment of the peak
    "loss": ("activations_gib", "loss_gib"),
    "backward": ("activations_gib", "layer_gib"),
    "gradients": ("gradients_gib", "layer_gib"),
    "optimizer step": ("gradients_gib", "step_gib"),
}
BEFORE_THE_LAST_PASS = ("loss", "backward")  # gradients of earlier micro-batches stand beside these
BEYOND = ("allocator_gib", "context_gib")
METHOD_WORDS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
STEP_TOKENS = 128  # lengths are offered in multiples of this

Estimator = Callable[[Sequence[FinetuneScenario]], list[FinetuneRow]]


class PeakPart(NamedTuple):
    """A term that stands on the GPU at the peak."""

    column: str
    gib: float


def peak_parts(row: FinetuneRow) -> list[PeakPart]:
    """Terms that add up to `peak_gib`, in the order of a bar."""
    earlier = ("gradients_gib",) if row["peak_phase"] in BEFORE_THE_LAST_PASS and row["grad_accum"] > 1 else ()
    columns = (*STAYS, *earlier, *MOMENTS[row["peak_phase"]], *BEYOND)
    return [PeakPart(column, row[column]) for column in columns if row[column]]


# The verdict.


def training_verdict(row: FinetuneRow) -> Verdict:
    """Fits, fits perhaps, or does not, with the margin; the sentence says what was asked."""
    peak, available = row["peak_gib"], row["available_gib"]
    spare = figure(abs(available - peak), row["peak_gib_low"], row["peak_gib_high"])
    if row["fit_confidence"] == "tight":
        state = "tight"
        headline = "Tight: likely, not certain." if row["fits"] else "Tight: likely too large."
    else:
        state = "yes" if row["fits"] else "no"
        headline = f"Fits, with {spare} GiB to spare." if row["fits"] else f"Does not fit: {spare} GiB short."
    cards = f"{row['n_gpus']} × {gpu_name(row['gpu'])}"
    split = f" under {row['sharding']}" if row["n_gpus"] > 1 else ""
    return Verdict(
        state,
        headline,
        f"{_method(row)} on {cards}{split}, {row['batch_size']} × {row['seq_len']:,} tokens, "
        f"takes {interval(row, 'peak_gib')} GiB of the {available:.1f} on each GPU. The peak comes {_moment(row)}.",
    )


def _method(row: FinetuneRow) -> str:
    words, model = METHOD_WORDS[row["method"]], model_name(row["model"])
    if row["method"] == "full":
        return f"Full fine-tuning of {model}"
    return f"{words} of {model} (rank {row['lora_rank']}, frozen in {format_name(row['weight_format'])})"


def _moment(row: FinetuneRow) -> str:
    words = {"backward": "in the backward pass", "gradients": "at the end of the backward pass"}
    return words.get(row["peak_phase"], f"with the {row['peak_phase']}")


# Formulas.


def training_formulas(row: FinetuneRow) -> list[Formula]:
    """Each term with this run's numbers, who says so, and what kind of evidence that is."""
    data = catalog.constants()
    framework = catalog.framework(row["framework"])
    found = [_frozen(row), _trained(row), _states(row)] if row["method"] != "full" else [_trained(row), _states(row)]
    layer, loss = framework.compiled if row["compile"] else framework.layer, catalog.loss(row["loss"])
    tokens = f"{row['batch_size']} × {row['seq_len']:,} tokens"
    kept = f"{tokens} through every layer, checkpointing {row['gradient_checkpointing']}"
    again = f"one layer computed again and its gradients: {figure(row['layer_gib'])} GiB"
    found.append(
        Formula("Activations", (f"{kept}: {figure(row['activations_gib'])} GiB kept", again), layer.source, layer.kind)
    )
    logits = f"logits and loss of {tokens}, {loss.logit_bytes:g} B a logit and {loss.hidden_bytes:g} B a hidden value"
    found.append(Formula("Loss", (f"{logits}: {figure(row['loss_gib'])} GiB",), loss.source, loss.kind))
    context = data.shared.context_bytes
    added = " + ".join(f"{part.gib:.2f}" for part in peak_parts(row))
    lines = (
        f"{added} = {row['peak_gib']:.2f} GiB, in the {_moment(row)}",
        f"the allocator holds {100 * framework.fragmentation.value:.0f} % more than its tensors",
        f"80 % of cases: {row['peak_gib_low']:.1f} to {row['peak_gib_high']:.1f} GiB",
    )
    source = f"{framework.fragmentation.source}; {context.source}; interval: {framework.interval.source}"
    return [*found, Formula("Peak", lines, source, str(framework.interval.kind))]


def _frozen(row: FinetuneRow) -> Formula:
    share = f", divided by {row['n_gpus']} GPUs" if row["sharding"] in SHARDS_WEIGHTS else ""
    line = (
        f"{row['parameters'] / 1e9:,.2f} B parameters in {format_name(row['weight_format'])}, tensor by tensor{share}: "
        f"{figure(row['weights_gib'])} GiB"
    )
    framework = catalog.framework(row["framework"])
    return Formula("Frozen weights", (line,), framework.source, "derived")


def _trained(row: FinetuneRow) -> Formula:
    widths = catalog.constants().precisions[row["precision"]]
    count, share = row["trained_parameters"], row["n_gpus"] if row["sharding"] in SHARDS_WEIGHTS else 1
    held = row["weights_gib"] if row["method"] == "full" else row["adapters_gib"]
    each = widths.parameter + (0 if row["sharding"] in SHARDS_WEIGHTS else widths.cast)
    what = "" if row["method"] == "full" else f"rank {row['lora_rank']} on {row['lora_targets']}: "
    line = f"{what}{count:,} trained × {each:g} B{_over(share)}"
    gradients = f"their gradients, {widths.gradient:g} B each: {figure(row['gradients_gib'])} GiB"
    return Formula(
        "Trained parameters", (_equation(line, count * each / share, held), gradients), widths.source, "derived"
    )


def _states(row: FinetuneRow) -> Formula:
    widths = catalog.constants().precisions[row["precision"]]
    optimizer = catalog.optimizer(row["optimizer"])
    width = optimizer.state_bytes or widths.state
    states = 0.0 if optimizer.paged else optimizer.states * width
    share = row["n_gpus"] if row["sharding"] in SHARDS_STATES else 1
    held = f"{optimizer.states:g} states × {width:g} B" + (" (may move to the host)" if optimizer.paged else "")
    line = f"{row['trained_parameters']:,} × ({held} + {widths.master:g} B master){_over(share)}"
    total = row["trained_parameters"] * (states + widths.master) / share
    if row["offload_optimizer"]:
        line, total = "in host memory", 0.0
    return Formula("Optimizer", (_equation(line, total, row["optimizer_gib"]),), optimizer.source, "derived")


def _over(share: int) -> str:
    return f" ÷ {share} GPUs" if share > 1 else ""


def _equation(line: str, found_bytes: float, gib: float) -> str:
    """The line as an equation where it is one; rows, columns and tables of another width are added in words."""
    exact = abs(found_bytes / GIB - gib) <= CLOSE * max(gib, CLOSE)
    return f"{line}{' =' if exact else ' and what is kept in another width:'} {figure(gib)} GiB"


# Changes.


def training_changes(run: FinetuneScenario, row: FinetuneRow, estimator: Estimator, limit: int = 6) -> list[Change]:
    """Single changes after which the run fits, the cheapest first; when it fits, what else would still fit."""
    tried = _larger(row) if row["fits"] else _smaller(row)
    found: dict[str, Change] = {}
    for item, then in zip(tried, estimator([run.model_copy(update=item.update) for item in tried]), strict=True):
        if then["error"] is None and then["fits"] and item.kind not in found:
            effect = f"{then['peak_gib']:.1f} of {then['available_gib']:.1f} GiB"
            found[item.kind] = Change(item.label, item.update, effect, "fits")
    return list(found.values())[:limit]


def _smaller(row: FinetuneRow) -> list[Proposal]:
    """What saves memory: settings that cost time only, then what is trained, then the length, then hardware."""
    return [*_cheaper_steps(row), *_cheaper_methods(row), *_shorter(row), *_more_hardware(row)]


def _cheaper_steps(row: FinetuneRow) -> list[Proposal]:
    batch, out = row["batch_size"], []
    if batch > 1 and not row["optimizer_in_backward"]:
        for size in sorted({max(row["max_batch_size"], 1), 1}, reverse=True):
            times = -(-batch * row["grad_accum"] // size)
            label = f"micro-batch of {size}, {times} of them for each step"
            out.append(Proposal(label, {"batch_size": size, "grad_accum": times}, "batch"))
    if row["gradient_checkpointing"] == "none":
        out.append(Proposal("gradient checkpointing", {"gradient_checkpointing": "full"}, "checkpointing"))
    if row["loss"] != "fused-linear":
        out.append(Proposal("a loss that never holds all logits (Liger)", {"loss": "fused-linear"}, "loss"))
    if row["n_gpus"] > 1 and row["sharding"] not in SHARDS_WEIGHTS:
        out += [Proposal(f"weights sharded ({name})", {"sharding": name}, "sharding") for name in ("fsdp", "zero3")]
    if "8bit" not in row["optimizer"]:
        out.append(Proposal("AdamW in 8 bit", {"optimizer": "adamw-8bit"}, "optimizer"))
    if not row["offload_optimizer"]:
        out.append(Proposal("optimizer in host memory", {"offload_optimizer": True}, "offload"))
    return out


def _cheaper_methods(row: FinetuneRow) -> list[Proposal]:
    methods = {"full": ("lora", "qlora"), "lora": ("qlora",)}.get(row["method"], ())
    update = {"weight_format": None, "precision": None, "optimizer_in_backward": None}
    splits = row["n_gpus"] > 1 and row["sharding"] not in SHARDS_WEIGHTS
    shards: list[tuple[str, dict[str, Any]]] = [("", {}), *([(" under fsdp", {"sharding": "fsdp"})] if splits else [])]
    return [
        Proposal(METHOD_WORDS[name] + how, {"method": name} | update | more, f"method {name}")
        for name in methods
        for how, more in shards
    ]


def _shorter(row: FinetuneRow) -> list[Proposal]:
    length = row["max_seq_len"] // STEP_TOKENS * STEP_TOKENS
    return [Proposal(f"sequences of {length:,} tokens", {"seq_len": length}, "length")] if length else []


def _more_hardware(row: FinetuneRow) -> list[Proposal]:
    sharding = row["sharding"] if row["sharding"] in SHARDS_WEIGHTS else "fsdp"
    counts = [row["n_gpus"] * times for times in (2, 4, 8, 16)]
    out = [Proposal(f"{n} GPUs ({sharding})", {"n_gpus": n, "sharding": sharding}, "more") for n in counts]
    larger = [name for name in LARGER_GPUS if gpus.gpu(name).device_bytes > row["device_gib"] * GIB]
    return out + [Proposal(gpu_name(name), {"gpu": name, "device_gib": None}, "gpu") for name in larger]


def _larger(row: FinetuneRow) -> list[Proposal]:
    """What a run that fits could still afford."""
    out = []
    if row["max_batch_size"] > row["batch_size"]:
        size = row["max_batch_size"]
        out.append(Proposal(f"micro-batch of {size:,}", {"batch_size": size}, "batch"))
    length = row["max_seq_len"] // STEP_TOKENS * STEP_TOKENS
    if length > row["seq_len"]:
        out.append(Proposal(f"sequences of {length:,} tokens", {"seq_len": length}, "length"))
    if row["gradient_checkpointing"] != "none":
        out.append(
            Proposal("no gradient checkpointing: faster steps", {"gradient_checkpointing": "none"}, "checkpointing")
        )
    for name in {"qlora": ("full", "lora"), "lora": ("full",)}.get(row["method"], ()):
        update = {"method": name, "weight_format": None, "precision": None}
        update |= dict.fromkeys(("lora_rank", "lora_targets", "train_embeddings")) if name == "full" else {}
        out.append(Proposal(METHOD_WORDS[name] + " in 16 bit", update, "method"))
    if row["n_gpus"] > 1:
        half = row["n_gpus"] // 2
        alone = {"sharding": None} if half == 1 else {}
        out.append(Proposal(f"{half} GPU{'s' if half > 1 else ''}", {"n_gpus": half} | alone, "fewer"))
    return out
