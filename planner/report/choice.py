"""What a search found as one HTML file: the winner and why, the candidates, and what was rejected for which reason."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from planner import explain
from planner.explain.quality import in_short
from planner.report.html import page, table
from planner.report.launch import launch_command
from planner.search import Recommendation, words
from planner.specs.wish import Wish

MOST = 50
HEAD = (
    "", "tokens/s for each user", "first token, ms", "tokens/s, all", "USD per 1,000 requests",
    "USD per million answer tokens", "weights", "near tie",
)  # fmt: skip


def choice_report(recommendation: Recommendation, wish: Wish) -> str:
    """The report of a search."""
    state = "holds" if recommendation.candidates else "no"
    why = "".join(f"<p>{escape(line)}</p>" for line in words.reasons(recommendation, wish))
    parts = [f'<h1 class="{state}">{escape(words.headline(recommendation))}</h1>{why}']
    if recommendation.candidates:
        command = launch_command(recommendation.candidates[0])
        parts.append(
            table(
                f"The first {min(len(recommendation.candidates), MOST)} candidates", HEAD, _candidates(recommendation)
            )
        )
        parts.append(f"<h2>Start it</h2><pre>{escape(command)}</pre>" if command else "")
    if recommendation.reasons:
        counts = [(code.replace("_", " "), f"{count:,}") for code, count in recommendation.reasons.items()]
        parts.append(
            table(f"Rejected of {recommendation.combinations:,} combinations", ("first reason", "combinations"), counts)
        )
        parts.append(
            table(
                f"The nearest {min(len(recommendation.rejected), MOST)} of them",
                ("", "reason"),
                _rejected(recommendation),
            )
        )
    return page("Recommendation", "".join(parts))


def _candidates(recommendation: Recommendation) -> Iterable[tuple[str, ...]]:
    for row in recommendation.candidates[:MOST]:
        name = f"{row['rank']}. {words.settings(row)}, {words.arrangement(row)}"
        speeds = (explain.interval(row, "output_tokens_per_s_per_request"), explain.interval(row, "ttft_ms"))
        whole = explain.interval(row, "output_tokens_per_s")
        prices = (words.thousand_price(row), explain.figure(row["usd_per_million_output_tokens"]))
        yield name, *speeds, whole, *prices, in_short(row), "yes" if 1 in row["tie_with"] else ""


def _rejected(recommendation: Recommendation) -> Iterable[tuple[str, ...]]:
    for row in recommendation.rejected[:MOST]:
        names = (row.get("model"), row.get("weight_format"), row.get("kv_format"), row.get("engine"), row.get("gpu"))
        layout = [f"{name} {row[name]}" for name in ("tp", "pp") if (row.get(name) or 1) > 1]
        yield ", ".join([str(name) for name in names if name] + layout), str(row["reason"])
