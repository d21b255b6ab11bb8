"""Two sides' answers to the same examples: paired, scored, compared."""

from __future__ import annotations

import json
import re
import statistics as plain
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from planner.errors import BadFile, BadValue
from planner.quality.examples import Answer, Example, Scorer, ScorerKind
from planner.quality.scorers import passes, unsuited
from planner.quality.scorers.structured import expected_calls
from planner.quality.scorers.text import choice
from planner.quality.verdict import Finding, Passes, finding

MOST_SHOWN = 200  # examples side by side; the CSV holds all
MOST_CHARACTERS = 4000  # of an answer shown there

EXAMPLE_COLUMNS = (
    "id",
    "tags",
    "baseline_pass_rate",
    "candidate_pass_rate",
    "change",
    "baseline_output",
    "candidate_output",
)

_REFUSAL = re.compile(
    r"^\W*(?:i'?m (?:really |very )?sorry,? (?:but )?|sorry,? (?:but )?|unfortunately,? |as an ai\b[^.]{0,80}?,? )?"
    r"(?:i (?:can(?:no|')t|am unable|am not able|won'?t)|i'?m (?:unable|not able))\b",
    re.IGNORECASE,
)


class Pair(NamedTuple):
    """One example with both sides' answers, repeat by repeat, and what passed."""

    example: Example
    baseline: tuple[Answer, ...]
    candidate: tuple[Answer, ...]
    passes: Passes


class Manner(NamedTuple):
    """How a side answers, beside right and wrong; None where its answers do not say. Rates are fractions."""

    answers: int
    mean_characters: float
    mean_completion_tokens: float | None
    refusal_rate: float
    cut_rate: float | None  # ended by the limit of tokens
    median_latency_s: float | None
    tokens_per_s_per_request: float | None


class Check(NamedTuple):
    """Everything a quality check found."""

    finding: Finding
    pairs: tuple[Pair, ...]
    baseline: Manner
    candidate: Manner
    failed: Mapping[str, str]  # "side: example" to reason
    scorers: tuple[str, ...]


Scorers = Mapping[str, tuple[Scorer, ...]]
# Of a judge, by example and repeat: 1 the candidate, -1 the baseline, 0 neither, None undecided.
Preferences = Mapping[tuple[str, int], int | None]


def assigned(examples: Sequence[Example], wanted: Sequence[Scorer] = (), run_tests: bool = False) -> Scorers:
    """The scorers of each example: its own, else those of `wanted` that fit it, else what its reference asks for.

    Raises BadValue naming the example that none fits, or the scorer that fits no example.
    """
    found: dict[str, tuple[Scorer, ...]] = {}
    used: set[int] = set()
    for example in examples:
        named = f"example {example.id!r}"
        for scorer in example.scorers:
            if why := unsuited(scorer, example):
                raise BadValue(f"{named}: the scorer {scorer.kind.value} {why}")
        fitting = [i for i, scorer in enumerate(wanted) if unsuited(scorer, example) is None]
        used.update(fitting)
        own = tuple(example.scorers) or tuple(wanted[i] for i in fitting) or (() if wanted else (_natural(example),))
        if not own:
            raise BadValue(
                f"{named}: none of the scorers fits it ({wanted[0].kind.value} {unsuited(wanted[0], example)})"
            )
        if not run_tests and any(scorer.kind is ScorerKind.UNIT_TEST for scorer in own):
            raise BadValue(
                f"{named}: unit_test runs code that a model wrote, with your rights; allow it with --run-tests"
            )
        found[example.id] = own
    for i, scorer in enumerate(wanted):
        if i not in used:
            raise BadValue(f"the scorer {scorer.kind.value} fits no example; it {unsuited(scorer, examples[0])}")
    return found


def _natural(example: Example) -> Scorer:
    """What an example's own fields ask for."""
    reference = example.reference
    if example.answer_schema is not None:
        kind = ScorerKind.JSON_SCHEMA
    elif isinstance(reference, dict | list) and expected_calls(reference) is not None:
        kind = ScorerKind.TOOL_CALL
    elif isinstance(reference, int | float) and not isinstance(reference, bool):
        kind = ScorerKind.NUMERIC
    elif isinstance(reference, str) and len(reference.strip()) == 1 and choice(reference):
        kind = ScorerKind.CHOICE
    else:
        kind = ScorerKind.NORMALISED
    scorer = Scorer(kind=kind)
    if why := unsuited(scorer, example):
        raise BadValue(f"example {example.id!r}: no scorer is given, and {kind.value} {why}")
    return scorer


def matched(examples: Sequence[Example], answers: Sequence[Answer], side: str) -> None:
    """Raises BadFile when answers from a file are to other examples, or not to all; names the side and one of them."""
    known, given = {one.id for one in examples}, {one.id for one in answers}
    for said, ids in (("answers an example that is not there", given - known), ("lacks an answer to", known - given)):
        if ids:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            raise BadFile(f"{side}: {said}: {min(ids)!r}{more}; both sides answer the same examples")


def compare(
    examples: Sequence[Example],
    sides: tuple[Sequence[Answer], Sequence[Answer]],
    scorers: Scorers,
    tolerance: float,
    failed: Mapping[str, str] | None = None,
    preferred: Preferences | None = None,
) -> Check:
    """Score and compare both sides. Raises BadValue when no example has an answer of both."""
    pairs = [
        _pair(example, (before, after), scorers[example.id], preferred or {})
        for example, before, after in aligned(examples, sides)
    ]
    if not pairs:
        raise BadValue(
            "no example has an answer of both sides" + "".join(f"; {k}: {v}" for k, v in (failed or {}).items())[:200]
        )
    undecided = len({name for (name, _), value in (preferred or {}).items() if value is None})
    return Check(
        finding([pair.passes for pair in pairs], tolerance, len(examples) - len(pairs), undecided),
        tuple(pairs),
        manner([answer for pair in pairs for answer in pair.baseline]),
        manner([answer for pair in pairs for answer in pair.candidate]),
        failed or {},
        tuple(sorted({scorer.kind.value for own in scorers.values() for scorer in own})),
    )


def aligned(
    examples: Sequence[Example], sides: tuple[Sequence[Answer], Sequence[Answer]]
) -> Iterator[tuple[Example, list[Answer], list[Answer]]]:
    """Examples that both sides answered, with equally many answers, so that sides which are the same may be swapped."""
    before, after = map(_grouped, sides)
    for example in examples:
        both = before.get(example.id, []), after.get(example.id, [])
        repeats = min(map(len, both))
        if repeats:
            yield example, both[0][:repeats], both[1][:repeats]


def _grouped(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda one: one.repeat):
        found.setdefault(answer.id, []).append(answer)
    return found


def _pair(
    example: Example, sides: tuple[list[Answer], list[Answer]], scorers: tuple[Scorer, ...], preferred: Preferences
) -> Pair:
    judged = any(scorer.kind is ScorerKind.JUDGE for scorer in scorers)
    favours = [preferred.get((example.id, i), 0) if judged else 0 for i in range(len(sides[0]))]
    scored = [
        tuple(
            favour != other and all(passes(scorer, example, one) for scorer in scorers)
            for one, favour in zip(side, favours, strict=True)
        )
        for side, other in zip(sides, (1, -1), strict=True)
    ]
    return Pair(
        example, tuple(sides[0]), tuple(sides[1]), Passes(example.id, tuple(example.tags), scored[0], scored[1])
    )


def manner(answers: Sequence[Answer]) -> Manner:
    """Lengths, refusals and times of one side's answers."""
    tokens = [one.completion_tokens for one in answers if one.completion_tokens is not None]
    latencies = [one.latency_s for one in answers if one.latency_s is not None]
    timed = [(one.completion_tokens, one.latency_s) for one in answers if one.completion_tokens and one.latency_s]
    reasons = [one.finish_reason for one in answers if one.finish_reason]
    return Manner(
        len(answers),
        plain.fmean(len(one.output) for one in answers),
        plain.fmean(tokens) if tokens else None,
        plain.fmean(refuses(one) for one in answers),
        plain.fmean(reason == "length" for reason in reasons) if reasons else None,
        plain.median(latencies) if latencies else None,
        sum(n for n, _ in timed) / sum(s for _, s in timed) if timed else None,
    )


def refuses(answer: Answer) -> bool:
    """Whether an answer begins as refusals in English do; a guess, good for comparing two sides."""
    return not answer.tool_calls and bool(_REFUSAL.match(answer.output.replace("\u2019", "'")))


def flipped(check: Check) -> list[Pair]:
    """Examples that got worse, the most first, then those that got better."""
    changed = [pair for pair in check.pairs if pair.passes.difference]
    return sorted(changed, key=lambda pair: pair.passes.difference)


def example_rows(check: Check) -> list[dict[str, Any]]:
    """A row per example for CSV: what passed and both first answers."""
    return [
        {
            "id": pair.example.id,
            "tags": ";".join(pair.example.tags),
            "baseline_pass_rate": sum(pair.passes.baseline) / len(pair.passes.baseline),
            "candidate_pass_rate": sum(pair.passes.candidate) / len(pair.passes.candidate),
            "change": "worse" if pair.passes.difference < 0 else "better" if pair.passes.difference > 0 else "same",
            "baseline_output": said(pair.baseline[0]),
            "candidate_output": said(pair.candidate[0]),
        }
        for pair in check.pairs
    ]


def flip_rows(check: Check) -> list[dict[str, Any]]:
    """The examples that flipped for reading side by side: what was asked, and each side's telling answer."""
    return [
        {
            "id": pair.example.id,
            "tags": ", ".join(pair.example.tags),
            "change": "worse" if pair.passes.difference < 0 else "better",
            "asked": _shortened(str(pair.example.messages[-1].get("content") or "")),
            "baseline_passed": f"{sum(pair.passes.baseline)} of {len(pair.passes.baseline)}",
            "candidate_passed": f"{sum(pair.passes.candidate)} of {len(pair.passes.candidate)}",
            "baseline_output": _telling(pair.baseline, pair.passes.baseline),
            "candidate_output": _telling(pair.candidate, pair.passes.candidate),
        }
        for pair in flipped(check)[:MOST_SHOWN]
    ]


def _telling(answers: Sequence[Answer], passed: Sequence[bool]) -> str:
    """The first failure, which tells more than another pass; else the first answer."""
    return _shortened(said(answers[passed.index(False) if False in passed else 0]))


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"


def said(answer: Answer) -> str:
    """An answer as text: its words, and its tool calls as they came."""
    calls = [json.dumps(call, ensure_ascii=False) for call in answer.tool_calls]
    return "\n".join([answer.output, *calls] if answer.output else calls)
