"""A quality check as one HTML file: the verdict, what differs, and the examples that flipped side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from planner import __version__
from planner.quality.check import Check, flip_rows, flipped
from planner.quality.document import MANNERS, scaled
from planner.quality.verdict import span
from planner.report.html import page
from planner.specs.quality import Verdict


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
    return page("Quality check", "".join(parts))


def _tags(check: Check) -> Iterable[tuple[str, ...]]:
    for part in (check.finding.whole, *check.finding.tags):
        rates = (f"{100 * part.baseline_rate:.1f}", f"{100 * part.candidate_rate:.1f}")
        yield (part.tag or "all", str(part.n), *rates, span(part.difference), f"{part.p:.3g}", part.verdict.value)


def _manners(check: Check) -> Iterable[tuple[str, ...]]:
    for name, label, scale, form in MANNERS:
        values = [scaled(side, name, scale) for side in (check.baseline, check.candidate)]
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
