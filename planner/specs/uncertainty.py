"""Half-widths of 80 % intervals for figures of which nothing of the same kind has been measured yet."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from planner.specs.base import Kind, Spec


class HalfWidth(Spec):
    """Relative half-width of an 80 % interval: the figure lies within a factor 1 + value of the estimate."""

    value: Annotated[float, Field(gt=0, le=4)]
    source: str
    kind: Kind


class Seconds(Spec):
    """A time that may add to a figure, whatever its size."""

    value: Annotated[float, Field(ge=0, le=10)]
    source: str
    kind: Kind


class HardwareLevels(Spec):
    """By evidence of the memory figures or of the operators."""

    measured: HalfWidth
    reference: HalfWidth
    datasheet: HalfWidth


class BudgetLevels(HardwareLevels):
    """By evidence of what an engine takes of the card beyond all terms."""

    system: HalfWidth  # memory that the host shares, and GPUs without CUDA


class EngineLevels(Spec):
    """By evidence of the engine's kernels and overheads."""

    observed: HalfWidth
    transferred: HalfWidth
    assumed: HalfWidth
    unvalidated: HalfWidth  # assumed, and no measured run of the engine on such GPUs to hold it to


class HostLevels(Spec):
    """What a CPU and its link add, decode and prompts."""

    decode: HalfWidth
    prefill: HalfWidth


class StreamLevels(Spec):
    """For one request at a time, by whether rows of many cards of the generation are `known`, and by experts."""

    known: HalfWidth
    known_experts: HalfWidth
    elsewhere: HalfWidth
    elsewhere_experts: HalfWidth


class OwnKernels(Spec):
    """Operators and engine in one width, for an engine whose kernels' figures come from its own runs."""

    engine: str
    generations: tuple[str, ...]  # of which many cards have rows
    decode: StreamLevels
    prefill: StreamLevels


class Uncertainty(Spec):
    """Half-widths of everything that an interval is built from."""

    # memory, each by its own evidence (planner.estimate.bounds.memory_levels)
    budget: BudgetLevels
    device: HardwareLevels
    weights: HardwareLevels
    activation: HardwareLevels
    non_torch: HardwareLevels
    cuda_graph: HardwareLevels
    sequence: HardwareLevels
    # operators, by speed_evidence
    decode_operators: HardwareLevels
    prefill_operators: HardwareLevels
    # the engine around them, by engine_evidence
    decode_engine: EngineLevels
    prefill_engine: EngineLevels
    queue: EngineLevels
    memory_logs: dict[str, tuple[str, ...]]  # by engine with logs among the measured rows, terms that they state apart
    kernel_rows: dict[str, tuple[str, ...]]  # by engine with rates from measured rows, vendors of the GPUs or ANY
    validated: dict[str, tuple[str, ...]]  # by engine, generations of GPUs of which enough measured runs ship
    decode_engines: dict[str, HalfWidth]  # by engine with rows enough, in the place of decode_engine's transferred
    front_s: Seconds  # before a first token, by which a client, an API server or a tokenizer may be slower
    # in the place of operators and engine, for one stream of an engine with kernels of its own
    own_kernels: OwnKernels
    # on top where the CPU runs layers or their weights are copied
    host: HostLevels
