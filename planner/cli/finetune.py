"""`planner finetune`: memory of full, LoRA and QLoRA fine-tuning; a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from planner.catalog.finetune_runs import read_runs, runs_from_flags
from planner.catalog.rows import Read
from planner.catalog.values import plain_type
from planner.cli.exits import BAD_INPUT, UNMET
from planner.cli.flags import grouped_flags, with_flags
from planner.cli.output import Csv, Json, console, differing, figure, show_many, written
from planner.errors import BadValue
from planner.finetuning import answer_columns, estimate_finetune
from planner.finetuning.answer import FinetuneRow
from planner.specs.finetune import FinetuneScenario

PANELS = {"name": "What to train", "gpu": "Hardware", "lora_rank": "Adapters", "batch_size": "Step"}
TERMS = {
    "weights_gib": "weights",
    "adapters_gib": "adapters",
    "optimizer_gib": "optimizer and master weights",
    "gradients_gib": "gradients",
    "buffers_gib": "buffers of the sharding",
    "activations_gib": "activations kept",
    "layer_gib": "one layer at work",
    "loss_gib": "logits and loss",
    "step_gib": "temporaries of the step",
    "allocator_gib": "held by torch's allocator",
    "context_gib": "CUDA context",
}
FIGURES = {
    "loaded_gib": "after loading (reserved)",
    "peak_allocated_gib": "peak allocated",
    "peak_reserved_gib": "peak reserved",
    "peak_gib": "peak as nvidia-smi shows it",
}
COMPARED = {
    "fit_confidence": "fits",
    "peak_gib": "peak GiB",
    "weights_gib": "weights GiB",
    "model_states_gib": "states GiB",
    "peak_phase": "peak in",
    "max_seq_len": "longest",
    "error": "error",
}


with_run_flags = with_flags(grouped_flags(FinetuneScenario.model_fields, PANELS))


def switches() -> set[str]:
    """Options that mean yes when they stand alone."""
    fields = FinetuneScenario.model_fields.items()
    return {f"--{name.replace('_', '-')}" for name, field in fields if plain_type(field.annotation) is bool}


@with_run_flags
def finetune(
    flags: Mapping[str, str],
    scenarios: Annotated[
        str, typer.Option(metavar="FILE|-", help="Runs from a .csv, .jsonl, .json or .yaml file.", show_default=False)
    ] = "",
    require: Annotated[
        str, typer.Option(metavar="NAMES", help="Exit 3 unless this holds: fits.", show_default=False)
    ] = "",
    json: Json = False,
    csv: Csv = "",
) -> int:
    """Memory of a fine-tuning step on each GPU: full, LoRA or QLoRA, term by term, and what would still fit.

    Every option of the groups below is a column of a run. Lists and ranges span a grid:
    --seq-len 1024:16384:x2, --method lora,qlora, --sharding zero2,zero3.
    """
    if require not in ("", "fits"):
        raise BadValue(f"--require {require!r} is not known; fits is")
    if scenarios and flags:
        raise BadValue("--scenarios takes no other options of a run; put the columns into the file")
    runs = read_runs(scenarios) if scenarios else [Read(run) for run in runs_from_flags(flags)]
    answers = estimated(runs)
    errors = [answer["error"] for answer in answers if answer["error"]]
    if errors and len(answers) == 1 and not scenarios:
        raise BadValue(errors[0])
    if not written(list(answers[0]), answers, json, csv):
        _show(answers[0]) if len(answers) == 1 and not errors else _show_many(answers)
    if errors:
        print(f"error: {len(errors)} of {len(answers)} runs: {errors[0]}", file=sys.stderr)
        return BAD_INPUT
    return _unmet(answers) if require else 0


def estimated(runs: Sequence[Read[FinetuneScenario]]) -> list[FinetuneRow]:
    """An answer per run in their order; one that could not be read answers with its error."""
    answers = iter(estimate_finetune([run.scenario for run in runs if not run.error]).rows())
    return [_spoilt(run) if run.error else run.placed(next(answers)) for run in runs]


def _spoilt(run: Read[FinetuneScenario]) -> FinetuneRow:
    return {**run.scenario.__dict__, **dict.fromkeys(answer_columns()), "error": f"{run.where}: {run.error}"}


def _unmet(answers: Sequence[FinetuneRow]) -> int:
    missing = sum(not answer["fits"] for answer in answers)
    if missing:
        print(f"not met: fits in {missing} of {len(answers)} runs", file=sys.stderr)
    return UNMET if missing else 0


def _show(answer: FinetuneRow) -> None:
    """One run: the verdict, what was asked, then terms and peaks."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    tight = "; tight: likely, not certain" if answer["fit_confidence"] == "tight" else ""
    colour = {None: "bold", True: "bold green", False: "bold red"}[answer["fits"]]
    out.print(Text(f"{str(answer['reason'])[:1].upper()}{str(answer['reason'])[1:]}{tight}.", style=colour))
    out.print(Text(_asked(answer), style="dim"))
    for title, lines in (("Memory of each GPU, GiB", TERMS), ("What the tools print, GiB", FIGURES)):
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=34)
        table.add_column(justify="right", min_width=8)
        for name, label in lines.items():
            if answer[name]:
                table.add_row(Text(f"  {label}"), Text(figure(answer[name])))
        out.print(Text(f"\n{title}", style="bold"))
        out.print(table)
    out.print(
        Text(f"\n80 % of cases: {figure(answer['peak_gib_low'])} – {figure(answer['peak_gib_high'])} GiB.", "dim")
    )
    if answer["max_seq_len"] is not None:
        room = (
            f"longest sequence {figure(answer['max_seq_len'])}, largest micro-batch {figure(answer['max_batch_size'])}"
        )
        still = f"Still fits: {room}" if answer["max_seq_len"] else "No sequence fits, however short"
        out.print(Text(f"{still}. Every column: --json or --csv -", style="dim"))


def _asked(answer: FinetuneRow) -> str:
    """What was estimated, in a line."""
    adapters = "" if answer["method"] == "full" else f", rank {answer['lora_rank']} on {answer['lora_targets']}"
    card = f"{answer['n_gpus']} × {answer['gpu']}" if answer["gpu"] else f"{answer['n_gpus']} GPU"
    sharding = "" if answer["sharding"] == "none" else f" · {answer['sharding']}"
    return (
        f"{answer['model']} · {answer['method']}{adapters} · {answer['weight_format']} · {answer['framework']} · {card}"
        f"{sharding} · {answer['batch_size']} × {answer['seq_len']:,} tokens · {answer['optimizer']}"
        f" · checkpointing {answer['gradient_checkpointing']} · {answer['trained_parameters']:,} trained"
    )


def _show_many(answers: Sequence[FinetuneRow]) -> None:
    """Many runs: what differs between them, then the answer in a row each."""
    good = [answer for answer in answers if not answer["error"]] or answers
    show_many(differing(FinetuneScenario.model_fields, good), COMPARED, answers)
