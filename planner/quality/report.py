"""A quality check as one JSON document, and as one HTML file: no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from planner import __version__
from planner.quality.check import Check, Manner, flip_rows, flipped
from planner.quality.verdict import rows, span
from planner.specs.quality import QualityResult, Verdict

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5d656e;--line:#d5dae0;--ground:#fff;--good:#12734a;--bad:#b3261e}
@media (prefers-color-scheme:dark){
:root{--ink:#e7eaee;--soft:#a4acb5;--line:#3a4149;--ground:#14181c;--good:#5fc596;--bad:#f2877f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground)}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
.soft{color:var(--soft)}.cracks{color:var(--bad)}.holds{color:var(--good)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;table-layout:auto}
td,th{border-bottom:1px solid var(--line);padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top}
.pair{table-layout:fixed}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
"""
_MANNERS: tuple[tuple[str, str, float, str], ...] = (
    ("mean_characters", "length of an answer, characters", 1, ".0f"),
    ("mean_completion_tokens", "length of an answer, tokens", 1, ".0f"),
    ("refusal_rate", "refusals, % (by their first words)", 100, ".1f"),
    ("cut_rate", "cut by the token limit, %", 100, ".1f"),
    ("median_latency_s", "median time of an answer, s", 1, ".2f"),
    ("tokens_per_s_per_request", "tokens/s of one request", 1, ".1f"),
)


def manner_rows(check: Check) -> list[dict[str, Any]]:
    """What else differs: figures of both sides where their answers say them."""
    sides = (check.baseline, check.candidate)
    return [
        {"figure": label, "baseline": _scaled(sides[0], name, scale), "candidate": _scaled(sides[1], name, scale)}
        for name, label, scale, _ in _MANNERS
        if any(getattr(side, name) is not None for side in sides)
    ]


def _scaled(side: Manner, name: str, scale: float) -> float | None:
    value = getattr(side, name)
    return None if value is None else scale * value


def document(check: Check, observations: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The check as plain values; `observations` are the speeds of sides that were asked, for `planner observe`."""
    found = check.finding
    noise = found.noise
    return {
        "planner_version": __version__,
        "evidence": "your own test",
        "verdict": found.verdict.value,
        "headline": found.headline,
        "sentences": list(found.sentences),
        "tolerance_points": 100 * found.tolerance,
        "parts": rows(found),
        "mcnemar_p": found.mcnemar_p,
        "visible_drop_points": None if found.visible_drop is None else 100 * found.visible_drop,
        "examples_needed": found.examples_needed,
        "noise_floor_points": None if noise is None else 100 * noise.floor,
        "unanswered": found.unanswered,
        "failed": dict(check.failed),
        "scorers": list(check.scorers),
        "baseline": check.baseline._asdict(),
        "candidate": check.candidate._asdict(),
        "observations": dict(observations),
        "manner": manner_rows(check),
        "flips": flip_rows(check),
        "worse": [pair.example.id for pair in flipped(check) if pair.passes.difference < 0],
        "better": [pair.example.id for pair in flipped(check) if pair.passes.difference > 0],
    }


def as_result(found: Mapping[str, Any], about: Mapping[str, Any]) -> QualityResult:
    """A check's document as evidence of the model and formats in `about`."""
    whole = found["parts"][0]
    return QualityResult.model_validate(
        {
            **about,
            "verdict": found["verdict"],
            "difference_points": whole["difference_points"],
            "low": whole["difference_points_low"],
            "high": whole["difference_points_high"],
            "n": whole["examples"],
            "tolerance_points": found["tolerance_points"],
        }
    )


def html_report(check: Check) -> str:
    """The report: the verdict, tags, what else differs, and the examples that flipped, side by side."""
    found = check.finding
    state = {Verdict.HOLDS: "holds", Verdict.CRACKS: "cracks"}.get(found.verdict, "")
    parts = [
        f'<h1 class="{state}">{escape(found.headline)}</h1>',
        *(f"<p>{escape(sentence)}</p>" for sentence in found.sentences),
        _table(
            "By tag", ("tag", "examples", "baseline %", "candidate %", "difference, 95 %", "p", "verdict"), _tags(check)
        ),
        _table("What else differs", ("", "baseline", "candidate"), _manners(check)),
        _flips(check),
        _table("Without an answer", ("side and example", "reason"), sorted(check.failed.items())),
        f'<p class="soft">Scorers: {escape(", ".join(check.scorers))}. p is one-sided and exact, Holm over the tags.'
        f" LLM capacity planner {__version__}.</p>",
    ]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Quality check</title>'
    meta = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return f"{head}{meta}{policy}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _tags(check: Check) -> Iterable[tuple[str, ...]]:
    for part in (check.finding.whole, *check.finding.tags):
        rates = (f"{100 * part.baseline_rate:.1f}", f"{100 * part.candidate_rate:.1f}")
        yield (part.tag or "all", str(part.n), *rates, span(part.difference), f"{part.p:.3g}", part.verdict.value)


def _manners(check: Check) -> Iterable[tuple[str, ...]]:
    for name, label, scale, form in _MANNERS:
        values = [_scaled(side, name, scale) for side in (check.baseline, check.candidate)]
        if any(value is not None for value in values):
            yield (label, *("" if value is None else format(value, form) for value in values))


def _flips(check: Check) -> str:
    changed, shown = len(flipped(check)), flip_rows(check)
    if not changed:
        return "<h2>Examples that flipped</h2><p>None.</p>"
    cut = f"<p>{len(shown)} of {changed}; the CSV holds all.</p>" if changed > len(shown) else ""
    return "<h2>Examples that flipped</h2>" + cut + "".join(map(_flip, shown))


def _flip(row: Mapping[str, Any]) -> str:
    state = "cracks" if row["change"] == "worse" else "holds"
    sides = "".join(
        f"<td>{row[f'{side}_passed']} passed<pre>{escape(row[f'{side}_output'])}</pre></td>"
        for side in ("baseline", "candidate")
    )
    return (
        f'<h3>{escape(row["id"])}: <span class="{state}">{row["change"]}</span></h3>'
        f'<pre class="soft">{escape(row["asked"])}</pre>'
        f'<table class="pair"><tr><th>baseline</th><th>candidate</th></tr><tr>{sides}</tr></table>'
    )


def _table(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<h2>{escape(title)}</h2><table><tr>{top}</tr>{lines}</table>" if lines else ""
