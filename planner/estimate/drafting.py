"""Speculative decoding: the drafter, its weight format, and the operations that it adds to a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from planner.catalog.host import assumed
from planner.errors import BadValue, PlannerError
from planner.identity import Same
from planner.ops import Batch, Op, Prepared, Slot, batch_ops
from planner.params.prediction import prediction_head
from planner.specs.formats import FormatSpec
from planner.specs.model import ModelSpec
from planner.specs.scenario import Scenario

PREDICTION = ("mtp", "nextn")  # the checkpoint's own head
LOOKUP = ("ngram",)  # tokens found in the prompt: no weights


class Drafter(NamedTuple):
    """What drafts tokens. `model` is None where it does not run on the GPU."""

    model: ModelSpec | None
    weights: FormatSpec
    own_vocabulary: bool = True


class Target(NamedTuple):
    """The model that is drafted for, as its engine holds it."""

    model: ModelSpec
    weights: FormatSpec
    own_vocabulary: bool  # of a prediction head in this engine


Resolve = Callable[[str], tuple[ModelSpec, FormatSpec]]


def drafter(scenario: Scenario, target: Target, resolve: Resolve) -> Drafter | None:
    """The drafter of this scenario, or None. Raises BadValue, which names the column."""
    name = scenario.draft_model
    if not name:
        for column in ("speculative_tokens", "acceptance_rate"):
            if getattr(scenario, column) is not None:
                raise BadValue(f"column {column!r} needs 'draft_model': a model, mtp or ngram")
        return None
    try:
        if name.lower() in LOOKUP:
            return _drafter(Same(None), Same(target.weights), False)
        if name.lower() in PREDICTION:
            return _drafter(Same(prediction_head(target.model)), Same(target.weights), target.own_vocabulary)
        model, weights = resolve(name)
    except PlannerError as error:
        raise BadValue(f"column 'draft_model': {error}") from None
    return _drafter(Same(model), Same(target.weights if target.weights.family == "gguf" else weights), True)


@lru_cache(maxsize=256)
def _drafter(model: Same[ModelSpec | None], weights: Same[FormatSpec], own_vocabulary: bool) -> Drafter:
    """Equal drafters are one record, so that rows can be grouped by it."""
    return Drafter(model.value, weights.value, own_vocabulary)


def drafting_defaults(scenario: Scenario) -> dict[str, Any]:
    """Tokens per step and acceptance where the scenario leaves them blank."""
    if not scenario.draft_model:
        return {}
    tokens, rate = scenario.speculative_tokens, scenario.acceptance_rate
    return {
        "speculative_tokens": int(assumed("speculative_tokens").value) if tokens is None else tokens,
        "acceptance_rate": assumed("acceptance_rate").value if rate is None else rate,
    }


def draft_ops(prepared: Prepared, batch: Batch, tokens: Any) -> list[Op]:
    """Operations of the drafter in one step of its target: the prompts once, and `tokens` decode steps in a row."""
    decodes = batch._replace(prefill_tokens=0.0, prefill_seqs=0.0, image_patches=0.0)
    prompts = batch._replace(decode_seqs=0.0, image_patches=0.0)
    each = [op._replace(count=op.count * tokens) for op in batch_ops(prepared, decodes)]
    return [
        op._replace(name=f"draft.{op.name}", rate=op.rate + len(Slot)) for op in each + batch_ops(prepared, prompts)
    ]
