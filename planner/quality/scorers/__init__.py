"""Does an answer pass? One function per kind of requirement, all of them pure but unit tests.

`unsuited` says why a scorer does not fit an example; `passes` scores an answer to an example that it fits.
"""

from __future__ import annotations

from planner.quality.examples import Answer, Example, Scorer, ScorerKind
from planner.quality.scorers.code import unit_tests_pass
from planner.quality.scorers.semantic import semantic_fault, similarity
from planner.quality.scorers.structured import (
    calls_agree,
    expected_calls,
    is_json,
    matches_schema,
    schema_fault,
)
from planner.quality.scorers.text import (
    choice,
    contains,
    normalised,
    number,
    pattern_fault,
    pattern_found,
    within,
)

TEXT_KINDS = frozenset(
    {ScorerKind.EXACT, ScorerKind.NORMALISED, ScorerKind.CHOICE, ScorerKind.UNIT_TEST, ScorerKind.SEMANTIC}
)


def unsuited(scorer: Scorer, example: Example) -> str | None:
    """Why this scorer cannot score this example; None when it can."""
    reference, kind = example.reference, scorer.kind
    if kind in TEXT_KINDS and not (isinstance(reference, str) and reference.strip()):
        return "needs a reference that is text"
    if kind is ScorerKind.CHOICE and choice(reference) is None:
        return "needs a reference that is one letter, as B"
    if kind is ScorerKind.NUMERIC and number(str(reference)) is None:
        return "needs a reference that is a number"
    if kind is ScorerKind.CONTAINS and not (scorer.text or (isinstance(reference, str) and reference.strip())):
        return "needs its text, or a reference that is text"
    if kind is ScorerKind.REGEX:
        return pattern_fault(scorer.text or reference)
    if kind is ScorerKind.SEMANTIC:
        return semantic_fault()
    if kind is ScorerKind.JSON_SCHEMA:
        return schema_fault(example.answer_schema)
    if kind is ScorerKind.TOOL_CALL and expected_calls(reference) is None:
        return 'needs a reference that is a list of calls, as [{"name": "search", "arguments": {...}}]'
    return None


def passes(scorer: Scorer, example: Example, answer: Answer) -> bool:
    """Whether the answer meets the requirement. `scorer` fits the example."""
    reference, output = example.reference, answer.output
    match scorer.kind:
        case ScorerKind.EXACT:
            return bool(output.strip() == reference.strip())
        case ScorerKind.NORMALISED:
            return normalised(output) == normalised(reference)
        case ScorerKind.NUMERIC:
            return within(output, str(reference), scorer)
        case ScorerKind.CHOICE:
            return choice(output) == choice(reference)
        case ScorerKind.CONTAINS:
            return contains(output, scorer.text or reference)
        case ScorerKind.REGEX:
            return pattern_found(scorer.text or reference, output, scorer.timeout_s)
        case ScorerKind.JSON | ScorerKind.JSON_SCHEMA:
            return is_json(output) if scorer.kind is ScorerKind.JSON else matches_schema(output, example.answer_schema)
        case ScorerKind.TOOL_CALL:
            return calls_agree(answer.tool_calls, expected_calls(reference) or [])
        case ScorerKind.UNIT_TEST:
            return unit_tests_pass(output, reference, scorer.timeout_s)
        case ScorerKind.SEMANTIC:
            return similarity(output, reference) >= scorer.similarity
        case ScorerKind.JUDGE:
            return True  # the judge compares both sides: `planner.quality.judge`
