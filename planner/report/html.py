"""A sizing report as one HTML file: no script, nothing loaded from anywhere, charts drawn inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from planner import explain
from planner.catalog.quality import OWN, family
from planner.estimate.columns import EstimateRow
from planner.estimate.quality import quality_of
from planner.explain.quality import quality_lines
from planner.explain.words import BOUND_WORDS
from planner.report import svg
from planner.report.launch import launch_command
from planner.specs.model import ModelSpec
from planner.specs.scenario import Scenario

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5d656e;--line:#d5dae0;--ground:#fff;--good:#12734a;--bad:#b3261e}
@media (prefers-color-scheme:dark){
:root{--ink:#e7eaee;--soft:#a4acb5;--line:#3a4149;--ground:#14181c;--good:#5fc596;--bad:#f2877f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground)}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.4rem 0}.soft{color:var(--soft)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
.no,.cracks{color:var(--bad)}.holds,.meets_slo{color:var(--good)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--line);padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;white-space:nowrap}.pair{table-layout:fixed}
pre{background:color-mix(in srgb,var(--line) 35%,transparent);padding:.7rem;overflow:auto;white-space:pre-wrap}
.pair pre{background:none;padding:0;margin:0;overflow-wrap:anywhere}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}code{overflow-wrap:anywhere}
.weights{fill:#3b83c0}.kv{fill:#e69f00}.state{fill:#009e73}.activation{fill:#b36aa8}.other{fill:#8a8f98}.free{fill:none;stroke:var(--soft)}
.mark{stroke:var(--soft);stroke-dasharray:4 3}.axis{stroke:var(--line)}.line{fill:none;stroke:#3b83c0;stroke-width:2}
.band{fill:#3b83c0;opacity:.2}.point{fill:#3b83c0;stroke:#fff;stroke-width:2}
@media (max-width:40rem){svg{min-width:44rem}.wide,table{display:block;overflow-x:auto}td.n{white-space:normal}}
@media print{body{margin:0}}
"""
FIGURES = (
    ("each user, tokens/s", "output_tokens_per_s_per_request"),
    ("time to first token (TTFT) under this load, ms", "ttft_ms"),
    ("the same, alone, ms", "ttft_unloaded_ms"),
    ("between tokens (TPOT), ms", "tpot_ms"),
    ("whole answer, ms", "e2e_ms"),
    ("whole deployment, tokens/s", "output_tokens_per_s"),
    ("requests/s", "requests_per_s"),
    ("room: requests at once, all at full length", "max_concurrency"),
    ("weights on one GPU, GiB", "weights_gib"),
    ("KV pool on one GPU, GiB", "kv_pool_gib"),
    ("activations at their peak, GiB", "activation_gib"),
    ("most requests at once without a growing queue, objectives met", "sustainable_concurrency"),
    ("USD per hour", "usd_per_hour"),
    ("USD per month of 730 hours", "usd_per_month"),
    ("USD per request", "usd_per_request"),
    ("USD per million answer tokens", "usd_per_million_output_tokens"),
)


def report(row: EstimateRow, curve: Sequence[EstimateRow], model: ModelSpec, link: str = "") -> str:
    """The report of a row of `Estimate.rows()`, with the rows of its load curve and its model; `link` is a query."""
    said = explain.verdict(row)
    parts = [
        f'<h1 class="{escape(said.state)}">{escape(said.headline)}</h1><p>{escape(said.sentence)}</p>',
        table("Figures", ("", "", "80 % interval"), _figures(row)),
        f"<p>Limited by {escape(BOUND_WORDS.get(row['bound'] or '', 'nothing'))}.</p>" if row["bound"] else "",
        f'<h2>Memory of one GPU</h2><div class="wide">{svg.memory_bar(row)}</div>',
        f'<h2>Load and speed</h2><div class="wide">{svg.load_speed(curve, row)}</div>' if curve else "",
        _quality(row, model),
        _start(row),
        "<h2>How the figures come about</h2>" + "".join(map(_formula, explain.formulas(row, model))),
        table("The scenario, defaults filled in", ("column", "value"), _scenario(row)),
        _evidence(row, link),
    ]
    return page(f"Sizing report: {row['model']}", "".join(parts))


def page(title: str, body: str) -> str:
    """A whole document that loads nothing and runs nothing."""
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    meta = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return f"{head}{meta}{policy}<style>{STYLE}</style></head><body>{body}</body></html>\n"


def _figures(row: EstimateRow) -> Iterable[tuple[str, str, str]]:
    for label, name in FIGURES:
        if row[name] is not None:
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            yield label, explain.figure(row[name], low, high), explain.span(row, name)


def _scenario(row: EstimateRow) -> Iterable[tuple[str, str]]:
    return ((name, str(row[name])) for name in Scenario.model_fields if row[name] is not None)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A titled table; the first cell of a row names it, the others stand right."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<h2>{escape(title)}</h2><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _formula(item: explain.Formula) -> str:
    lines = escape("\n".join(item.lines))
    basis = f'<p class="soft">Source: {escape(item.source)} · evidence: {escape(item.evidence or "")}</p>'
    return f"<p><b>{escape(item.title)}</b></p><pre>{lines}</pre>{basis}"


def _quality(row: EstimateRow, model: ModelSpec) -> str:
    """What the formats cost in quality, with the sources; a check of the user's own is in the columns alone."""
    if row["quality_evidence"] == OWN:
        return f"<h2>Quality</h2><p>By your own test: {row['quality_loss_points']:.1f} points lost.</p>"
    kinds = str(row["weight_format"]), str(row["kv_format"] or "")
    found = quality_of(model, *kinds, family(row["task_family"]), ())
    lines = quality_lines(found, *kinds, row["task_family"])
    parts = (f'<p>{escape(said.text)}</p><p class="soft">{escape(said.source)}</p>' for said in lines)
    return f"<h2>Quality that the formats cost</h2>{''.join(parts)}"


def _start(row: EstimateRow) -> str:
    command = launch_command(row)
    which = f"<p>Checkpoint: {escape(str(row['checkpoint']))}</p>" if row["checkpoint"] else ""
    return f"<h2>Start it</h2>{which}" + (f"<pre>{escape(command)}</pre>" if command else "")


def _evidence(row: EstimateRow, link: str) -> str:
    names = ("memory_evidence", "speed_evidence", "engine_evidence")
    basis = ", ".join(f"{name.removesuffix('_evidence')}: {row[name]}" for name in names if row[name])
    basis += f" ({row['engine_validation']})" if row["engine_evidence"] else ""
    scenario = f"<p>The same scenario in the calculator: <code>?{escape(link)}</code></p>" if link else ""
    made = f"LLM capacity planner {row['planner_version']}, schema {row['schema_version']}"
    return f'<h2>Basis</h2><p>{escape(basis)}</p>{scenario}<p class="soft">{escape(made)}</p>'
