"""The answer as people read it: the verdict first, then memory, room and speed with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from planner.catalog.values import columns
from planner.cli.output import console, differing, figure, show_many
from planner.estimate.columns import EstimateRow

VERDICTS = {
    "no": ("Does not start", "red"),
    "starts": ("Starts, for one request at a time", "yellow"),
    "queues": ("Starts, but the load queues", "yellow"),
    "holds": ("Holds the load", "green"),
    "meets_slo": ("Holds the load and meets the objectives", "green"),
}
SECTIONS = {
    "Memory of each GPU, GiB": {
        "device_gib": "device",
        "budget_gib": "the engine's budget",
        "weights_gib": "weights",
        "activation_gib": "activations, peak",
        "non_torch_gib": "CUDA context and collectives",
        "cuda_graph_gib": "CUDA graphs",
        "recurrent_state_gib": "recurrent state",
        "reserved_gib": "held by others",
        "kv_pool_gib": "left for the KV cache",
        "kv_needed_gib": "KV cache of the whole load",
    },
    "Room": {
        "max_concurrency": "requests at once, all at full length",
        "max_context_tokens": "longest request at this load, tokens",
        "kv_pool_tokens": "tokens in the KV pool",
        "kv_bytes_per_token": "KV bytes per token and GPU",
    },
    "Speed": {
        "ttft_ms": "time to first token, ms",
        "ttft_unloaded_ms": "time to first token, unloaded, ms",
        "tpot_ms": "time per output token, ms",
        "e2e_ms": "whole request, ms",
        "output_tokens_per_s_per_request": "tokens/s for each user",
        "output_tokens_per_s": "tokens/s, whole deployment",
        "prefill_tokens_per_s": "prompt tokens/s, one replica alone",
        "requests_per_s": "requests/s",
        "sustainable_concurrency": "most {who} {limit}",
        "bound": "limited by",
    },
    "Money, USD": {
        "usd_per_hour": "per hour",
        "usd_per_request": "per request",
        "usd_per_million_input_tokens": "per million prompt tokens",
        "usd_per_million_output_tokens": "per million answer tokens",
    },
    "Quality": {
        "quality_loss_points": "points lost to the weight format",
        "quality_evidence": "evidence of the weight format's loss",
        "kv_quality_loss_points": "points lost to the KV format",
        "kv_quality_evidence": "evidence of the KV format's loss",
    },
    "Evidence": {
        "memory_evidence": "memory",
        "speed_evidence": "speed of the operators",
        "engine_evidence": "engine's kernels and overheads",
        "engine_validation": "measured runs of the engine on such GPUs",
        "observations": "observations of this engine on this GPU",
        "observed_decode_factor": "their factor on steps that generate",
        "observed_prefill_factor": "their factor on prompts",
        "support": "format on this GPU and engine",
    },
}
COMPARED = {
    "verdict": "verdict",
    "max_concurrency": "room",
    "weights_gib": "weights GiB",
    "kv_pool_gib": "KV pool GiB",
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "output_tokens_per_s_per_request": "tok/s user",
    "output_tokens_per_s": "tok/s all",
    "bound": "limited by",
    "error": "error",
}


def show_answer(answer: EstimateRow) -> None:
    """One scenario: verdict, what it is, then one short table per question."""
    from rich.table import Table
    from rich.text import Text

    from planner.explain.words import beyond_the_model, tight

    out = console()
    verdict, colour = VERDICTS[answer["verdict"]]
    near = tight(answer)
    out.print(Text(f"{verdict} (tight: {near})." if near else f"{verdict}.", style=f"bold {colour}"))
    if answer["reason"]:
        out.print(Text(str(answer["reason"])))
    if longer := beyond_the_model(answer):
        out.print(Text(longer))
    out.print(Text(deployment(answer), style="dim"))
    objectives = any(answer[f"{name}_slo_ms"] for name in ("ttft", "tpot", "e2e"))
    words = {
        "who": "users" if answer["users"] else "requests at once",
        "limit": "that meet the objectives" if objectives else "without a growing queue",
    }
    for title, lines in SECTIONS.items():
        shown = {name: label.format(**words) for name, label in lines.items() if _says_something(answer, name)}
        if not shown:
            continue
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=46)
        table.add_column(justify="right", min_width=10)
        table.add_column()
        for name, label in shown.items():
            table.add_row(Text(f"  {label}"), Text(figure(answer[name])), Text(_interval(answer, name), style="dim"))
        out.print(Text(f"\n{title}", style="bold"))
        out.print(table)
    _show_log_lines(answer)
    if answer["verdict"] in ("no", "starts", "queues"):
        out.print(Text(f"\nWhat would hold it: {_search_command(answer)}", style="dim"), soft_wrap=True)
    out.print(Text("\nIntervals hold 80 % of cases. Every column: --json or --csv -", style="dim"))


def _says_something(answer: EstimateRow, name: str) -> bool:
    """Whether a figure is worth its line: a loss of nothing is, memory of nothing is not."""
    value = answer.get(name)
    return value is not None and (value != 0 or name in SECTIONS["Quality"])


def _search_command(answer: EstimateRow) -> str:
    """The command that ranks formats, engines and layouts of this model on such GPUs for this load."""
    load = ("concurrency", "request_rate_per_s", "users", "think_time_s", "input_tokens", "output_tokens")
    stated = [f"--{name.replace('_', '-')} {answer[name]}" for name in ("model", "gpu", *load) if answer.get(name)]
    return " ".join(["planner recommend", *stated])


def _show_log_lines(answer: EstimateRow) -> None:
    """The terms as the engine's own log prints them."""
    from rich.text import Text

    from planner.explain import log_lines

    lines = log_lines(answer)
    if lines:
        out = console()
        out.print(Text("\nAs the engine's log prints it", style="bold"))
        for line in lines:
            out.print(Text(f"  {line.text}"))


def deployment(answer: EstimateRow) -> str:
    """What was priced, in a line."""
    gpus = answer["n_gpus"] or 1
    split = " × ".join(f"{name} {answer[name]}" for name in ("tp", "pp", "dp") if (answer.get(name) or 1) > 1)
    return (
        f"{answer['model']} · {answer['weight_format']}, KV {answer['kv_format']} · {gpus} × {answer['gpu']}"
        f"{f' ({split})' if split else ''} · {answer['engine']} {answer['engine_version'] or ''} · {_load(answer)}"
    )


def _load(answer: EstimateRow) -> str:
    """Who asks, and how long prompts and answers are."""
    asked = []
    if answer["users"]:
        asked.append(f"{answer['users']:,} users")
    if answer["request_rate_per_s"]:
        asked.append(f"{figure(answer['request_rate_per_s'])} requests/s")
    if answer["concurrency"]:
        run = f" in {answer['waves']:g} waves" if answer["waves"] and answer["concurrency"] > 1 else ""
        asked.append(f"{answer['concurrency']:,} at once{run}")
    return ", ".join([*asked, f"{answer['input_tokens']:,} + {answer['output_tokens']:,} tokens"])


def _interval(answer: EstimateRow, name: str) -> str:
    low, high = answer.get(f"{name}_low"), answer.get(f"{name}_high")
    if low is None or high is None:
        return ""
    whole = isinstance(answer[name], int)
    return " – ".join(figure(round(end) if whole else end) for end in (low, high))


def show_answers(answers: Sequence[EstimateRow], stated: Collection[str]) -> None:
    """Many scenarios: in which `stated` columns they differ, then the answer in a row each."""
    show_many(differing([name for name in columns() if name in stated], answers), COMPARED, answers)
