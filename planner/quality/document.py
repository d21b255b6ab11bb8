"""A quality check as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner import __version__
from planner.quality.check import Check, Manner, flip_rows, flipped
from planner.quality.verdict import rows
from planner.specs.quality import QualityResult

MANNERS: tuple[tuple[str, str, float, str], ...] = (
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
        {"figure": label, "baseline": scaled(sides[0], name, scale), "candidate": scaled(sides[1], name, scale)}
        for name, label, scale, _ in MANNERS
        if any(getattr(side, name) is not None for side in sides)
    ]


def scaled(side: Manner, name: str, scale: float) -> float | None:
    """A figure of one side times `scale`; None where its answers do not say it."""
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


def as_result(finding: Mapping[str, Any], about: Mapping[str, Any]) -> QualityResult:
    """A check's document as evidence of the model and formats in `about`."""
    whole = finding["parts"][0]
    return QualityResult.model_validate(
        {
            **about,
            "verdict": finding["verdict"],
            "difference_points": whole["difference_points"],
            "low": whole["difference_points_low"],
            "high": whole["difference_points_high"],
            "n": whole["examples"],
            "tolerance_points": finding["tolerance_points"],
        }
    )
